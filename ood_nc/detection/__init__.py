"""OOD detection: detectors behind one interface, the toolkit they are written with, and the checks they hold to.

Scores are larger for more in-distribution samples, everywhere. What is done with scores is :mod:`ood_nc.scores`; the
four metrics used most are here too. Adapters to other libraries' protocols are in :mod:`ood_nc.detection.adapters`.
"""

from ood_nc.detection.base import BaseDetector, DetectorInfo
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import MissingInputError, NonFiniteError
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.input_base import InputDetector
from ood_nc.detection.kit.faiss_backend import faiss_variant
from ood_nc.detection.moments import TapMoments
from ood_nc.detection.network import Network
from ood_nc.detection.registry import (
    create_detector,
    create_feature_detector,
    detector_class,
    list_detectors,
    register_detector,
)
from ood_nc.detection.selection import Selection, select, synthetic_outliers
from ood_nc.detection.testing import check_detector
from ood_nc.errors import NotFittedError
from ood_nc.scores import aupr, auroc, detection_metrics, fpr_at_tpr

__all__ = [
    "BaseDetector",
    "DetectorInfo",
    "FeatureDetector",
    "InputDetector",
    "MissingInputError",
    "Network",
    "NonFiniteError",
    "NotFittedError",
    "Selection",
    "TapMoments",
    "TapQueries",
    "TapStatistics",
    "aupr",
    "auroc",
    "check_detector",
    "create_detector",
    "create_feature_detector",
    "detection_metrics",
    "detector_class",
    "faiss_variant",
    "fpr_at_tpr",
    "list_detectors",
    "register_detector",
    "select",
    "synthetic_outliers",
]
