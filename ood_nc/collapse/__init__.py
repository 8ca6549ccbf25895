"""Neural collapse, measured exactly in one pass: class statistics and every metric computed from them."""

from ood_nc.collapse._common import UndefinedMetricError
from ood_nc.collapse.classes import ClassPair, ClassReport, confused_pairs, measure_classes
from ood_nc.collapse.decision import head_predictions, nc4_bias, nc4_ncc, nc5_ortho, ncc_accuracy, nearest_means
from ood_nc.collapse.entropy import entropy_full, entropy_nn
from ood_nc.collapse.frames import (
    etf_floor,
    gnc2_frame,
    gnc2_frame_head,
    gnc2_margin,
    gnc2_margin_head,
    gnc2_uniformity,
    gnc2_uniformity_head,
    nearest_cosines,
    uniformity,
    uniformity_head,
)
from ood_nc.collapse.geometry import (
    alignment_per_class,
    nc2_angle,
    nc2_angle_head,
    nc2_etf,
    nc2_etf_means,
    nc2_norm,
    nc2_norm_head,
    nc3_alignment,
    nc3_duality,
    nc3_papyan,
)
from ood_nc.collapse.imbalance import minority_classes, minority_collapse, nc2_seli
from ood_nc.collapse.intervals import Interval, ShardedStatistics, difference_intervals, metric_intervals
from ood_nc.collapse.layer import Layer
from ood_nc.collapse.multilabel import MultilabelReport, Multiplicity, measure_multilabel
from ood_nc.collapse.registry import METRICS, CollapseMetric
from ood_nc.collapse.report import CollapseReport, measure
from ood_nc.collapse.running import RunningStatistics, remove_noise
from ood_nc.collapse.spectrum import effective_rank, pabs, pabs_conv
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.collapse.testing import check_collapse_metric
from ood_nc.collapse.tracker import TRACKED, CollapseTracker
from ood_nc.collapse.variability import (
    cdnv,
    cdnv_per_class,
    nc1_pinv,
    nc1_ratio,
    nc1_ratio_balanced,
    trace_between,
    trace_within,
    vci,
    within_share,
)

__all__ = [
    "METRICS",
    "TRACKED",
    "ClassPair",
    "ClassReport",
    "ClassStatistics",
    "CollapseMetric",
    "CollapseReport",
    "CollapseTracker",
    "Interval",
    "Layer",
    "MultilabelReport",
    "Multiplicity",
    "RunningStatistics",
    "ShardedStatistics",
    "UndefinedMetricError",
    "alignment_per_class",
    "cdnv",
    "cdnv_per_class",
    "check_collapse_metric",
    "confused_pairs",
    "difference_intervals",
    "effective_rank",
    "entropy_full",
    "entropy_nn",
    "etf_floor",
    "gnc2_frame",
    "gnc2_frame_head",
    "gnc2_margin",
    "gnc2_margin_head",
    "gnc2_uniformity",
    "gnc2_uniformity_head",
    "head_predictions",
    "measure",
    "measure_classes",
    "measure_multilabel",
    "metric_intervals",
    "minority_classes",
    "minority_collapse",
    "nc1_pinv",
    "nc1_ratio",
    "nc1_ratio_balanced",
    "nc2_angle",
    "nc2_angle_head",
    "nc2_etf",
    "nc2_etf_means",
    "nc2_norm",
    "nc2_norm_head",
    "nc2_seli",
    "nc3_alignment",
    "nc3_duality",
    "nc3_papyan",
    "nc4_bias",
    "nc4_ncc",
    "nc5_ortho",
    "ncc_accuracy",
    "nearest_cosines",
    "nearest_means",
    "pabs",
    "pabs_conv",
    "remove_noise",
    "trace_between",
    "trace_within",
    "uniformity",
    "uniformity_head",
    "vci",
    "within_share",
]
