"""OOD detection: exact metrics with named conventions, detectors behind one interface, and a registry.

Scores are larger for more in-distribution samples, everywhere.
"""

from __future__ import annotations

from ood_nc.detection.base import Detector, DetectorInfo
from ood_nc.detection.bootstrap import bootstrap_intervals
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import (
    EmptySideError,
    MissingInputError,
    NanScoreError,
    NonFiniteError,
    NotFittedError,
)
from ood_nc.detection.faiss_backend import faiss_variant
from ood_nc.detection.metrics import (
    METRICS,
    aupr,
    auroc,
    detection_error,
    detection_metrics,
    fpr95_paper,
    fpr_at_tpr,
)
from ood_nc.detection.registry import create_detector, detector_class, list_detectors, register_detector

__all__ = [
    "METRICS",
    "Detector",
    "DetectorInfo",
    "EmptySideError",
    "MissingInputError",
    "NanScoreError",
    "NonFiniteError",
    "NotFittedError",
    "TapQueries",
    "TapStatistics",
    "aupr",
    "auroc",
    "bootstrap_intervals",
    "create_detector",
    "detection_error",
    "detection_metrics",
    "detector_class",
    "faiss_variant",
    "fpr95_paper",
    "fpr_at_tpr",
    "list_detectors",
    "register_detector",
]
