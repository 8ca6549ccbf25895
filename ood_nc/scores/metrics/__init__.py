"""Detection metrics, a file each: exact with ties, from ranks alone, every convention under its own name.

Scores are larger for more in-distribution samples. Nothing is transformed or cast to a narrower type, so a strictly
increasing change of all scores changes no metric. Infinite scores are allowed; NaN is refused.
"""

# The order of definition is that of results tables.
from ood_nc.scores.metrics.auroc import auroc

# isort: split
from ood_nc.scores.metrics.aupr import aupr
from ood_nc.scores.metrics.detection_error import detection_error
from ood_nc.scores.metrics.fpr import fpr95_paper, fpr_at_tpr

__all__ = ["aupr", "auroc", "detection_error", "fpr95_paper", "fpr_at_tpr"]
