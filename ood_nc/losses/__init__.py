"""Training losses: the nearest-neighbour entropy term, the objective it is part of, and the registry of its terms."""

from ood_nc.losses.deep_supervision import deep_supervision
from ood_nc.losses.entropy import nearest_neighbor_entropy
from ood_nc.losses.logit_norm import logit_norm
from ood_nc.losses.multilabel import asymmetric, feature_norm, focal, pick_all_label
from ood_nc.losses.nc1 import log_nc1
from ood_nc.losses.objective import Objective
from ood_nc.losses.outlier_exposure import outlier_exposure
from ood_nc.losses.registry import LOSSES, Batch, Term
from ood_nc.losses.supervised_contrastive import supervised_contrastive
from ood_nc.losses.t2fnorm import t2fnorm
from ood_nc.losses.testing import check_loss
from ood_nc.losses.within_class import within_class_share

__all__ = [
    "LOSSES",
    "Batch",
    "Objective",
    "Term",
    "asymmetric",
    "check_loss",
    "deep_supervision",
    "feature_norm",
    "focal",
    "log_nc1",
    "logit_norm",
    "nearest_neighbor_entropy",
    "outlier_exposure",
    "pick_all_label",
    "supervised_contrastive",
    "t2fnorm",
    "within_class_share",
]
