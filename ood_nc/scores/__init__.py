"""What is done with scores, whoever made them: metrics, intervals, comparisons, thresholds, ensembles, streams.

Scores are larger for more in-distribution samples, everywhere.
"""

from ood_nc.scores.bootstrap import bootstrap_intervals, percentile_interval, percentile_intervals, resampled_metrics
from ood_nc.scores.calibration import calibration_error
from ood_nc.scores.comparisons import PairedDifference, delong_test, paired_bootstrap
from ood_nc.scores.counts import RankCounts
from ood_nc.scores.discoveries import DiscoveryCounter, benjamini_hochberg, conformal_discoveries
from ood_nc.scores.ensembles import ScoreEnsemble
from ood_nc.scores.errors import EmptySideError, NanScoreError
from ood_nc.scores.metrics import aupr, auroc, detection_error, fpr95_paper, fpr_at_tpr
from ood_nc.scores.nested import nested_means
from ood_nc.scores.ranking import detection_metrics
from ood_nc.scores.registry import METRICS, ScoreMetric, score_metric
from ood_nc.scores.resamples import RankResamples, draw_ranks, draw_samples, ranks_of_samples
from ood_nc.scores.selective import augrc, aurc, excess_aurc, oscr
from ood_nc.scores.streaming import ScoreAccumulator
from ood_nc.scores.testing import check_metric
from ood_nc.scores.thresholds import Threshold, choose_class_thresholds, choose_threshold, conformal_p_values
from ood_nc.scores.ties import tie_note

__all__ = [
    "METRICS",
    "DiscoveryCounter",
    "EmptySideError",
    "NanScoreError",
    "PairedDifference",
    "RankCounts",
    "RankResamples",
    "ScoreAccumulator",
    "ScoreEnsemble",
    "ScoreMetric",
    "Threshold",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_intervals",
    "calibration_error",
    "check_metric",
    "choose_class_thresholds",
    "choose_threshold",
    "conformal_discoveries",
    "conformal_p_values",
    "delong_test",
    "detection_error",
    "detection_metrics",
    "draw_ranks",
    "draw_samples",
    "excess_aurc",
    "fpr95_paper",
    "fpr_at_tpr",
    "nested_means",
    "oscr",
    "paired_bootstrap",
    "percentile_interval",
    "percentile_intervals",
    "ranks_of_samples",
    "resampled_metrics",
    "score_metric",
    "tie_note",
]
