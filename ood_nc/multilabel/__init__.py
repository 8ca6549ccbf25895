"""Multi-label collapse: images with any number of labels, from training to OOD detection.

Li, Li, Wang, Qu, "Neural Collapse in Multi-label Learning with Pick-all-label Loss" (ICML 2024).
"""

from ood_nc.multilabel.detection import joint_energy, max_logit, nearest_by_label
from ood_nc.multilabel.evaluation import evaluate_label_sets
from ood_nc.multilabel.metrics import LabelSetScores, score_label_sets
from ood_nc.multilabel.thresholds import label_thresholds

__all__ = [
    "LabelSetScores",
    "evaluate_label_sets",
    "joint_energy",
    "label_thresholds",
    "max_logit",
    "nearest_by_label",
    "score_label_sets",
]
