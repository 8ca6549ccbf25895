"""Evaluation: banks in, one results document out; how collapse relates to the rest; runs compared."""

from __future__ import annotations

from ood_nc.documents import COLUMNS
from ood_nc.evaluation.collapse_relations import relate
from ood_nc.evaluation.compare import compare, save_comparison
from ood_nc.evaluation.layer_inputs import add_layer_inputs
from ood_nc.evaluation.openood import to_openood_csv
from ood_nc.evaluation.results import Results
from ood_nc.evaluation.seeds import over_seeds
from ood_nc.evaluation.suite import evaluate

__all__ = [
    "COLUMNS",
    "Results",
    "add_layer_inputs",
    "compare",
    "evaluate",
    "over_seeds",
    "relate",
    "save_comparison",
    "to_openood_csv",
]
