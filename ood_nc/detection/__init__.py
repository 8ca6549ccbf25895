"""OOD detection: exact metrics with named conventions, detectors behind one interface, thresholds with guarantees.

Scores are larger for more in-distribution samples, everywhere. Adapters to other libraries' protocols are in
:mod:`ood_nc.detection.adapters`.
"""

from __future__ import annotations

from ood_nc.detection.base import Detector, DetectorInfo
from ood_nc.detection.bootstrap import bootstrap_intervals
from ood_nc.detection.checks import DetectorCheckError, check_detector
from ood_nc.detection.comparisons import PairedDifference, delong_interval, delong_test, paired_bootstrap
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.ensembles import ScoreEnsemble
from ood_nc.detection.errors import (
    EmptySideError,
    MissingInputError,
    NanScoreError,
    NonFiniteError,
    NotFittedError,
)
from ood_nc.detection.faiss_backend import faiss_variant
from ood_nc.detection.input_base import InputDetector
from ood_nc.detection.metrics import (
    METRICS,
    aupr,
    auroc,
    detection_error,
    detection_metrics,
    fpr95_paper,
    fpr_at_tpr,
)
from ood_nc.detection.network import Network
from ood_nc.detection.protocol import BaseDetector
from ood_nc.detection.registry import (
    create_detector,
    create_feature_detector,
    detector_class,
    list_detectors,
    register_detector,
)
from ood_nc.detection.selection import Selection, select, synthetic_outliers
from ood_nc.detection.selective import augrc, aurc, excess_aurc, oscr
from ood_nc.detection.streaming import ScoreAccumulator
from ood_nc.detection.thresholds import (
    DiscoveryCounter,
    Threshold,
    benjamini_hochberg,
    choose_class_thresholds,
    choose_threshold,
    conditional_p_values,
    conformal_discoveries,
    conformal_p_values,
)

__all__ = [
    "METRICS",
    "BaseDetector",
    "Detector",
    "DetectorCheckError",
    "DetectorInfo",
    "DiscoveryCounter",
    "EmptySideError",
    "InputDetector",
    "MissingInputError",
    "NanScoreError",
    "Network",
    "NonFiniteError",
    "NotFittedError",
    "PairedDifference",
    "ScoreAccumulator",
    "ScoreEnsemble",
    "Selection",
    "TapQueries",
    "TapStatistics",
    "Threshold",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_intervals",
    "check_detector",
    "choose_class_thresholds",
    "choose_threshold",
    "conditional_p_values",
    "conformal_discoveries",
    "conformal_p_values",
    "create_detector",
    "create_feature_detector",
    "delong_interval",
    "delong_test",
    "detection_error",
    "detection_metrics",
    "detector_class",
    "excess_aurc",
    "faiss_variant",
    "fpr95_paper",
    "fpr_at_tpr",
    "list_detectors",
    "oscr",
    "paired_bootstrap",
    "register_detector",
    "select",
    "synthetic_outliers",
]
