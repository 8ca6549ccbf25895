"""What each metric is called in the report, its unit, which direction is better, and its convention: glossary.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ood_nc.headline import HEADLINE_DETECTORS


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        label: what it is called; it names its convention.
        unit: ``percent``, ``number`` or ``correlation``.
        better: ``higher``, ``lower``, or empty where neither is better in itself.
        meaning: a sentence for the glossary.
    """

    label: str
    unit: str
    better: str
    meaning: str

    def axis(self, of: str = "") -> str:
        """The label, what it is of, and the unit, as they stand at an axis or above a column."""
        return self.label + of + (", %" if self.unit == "percent" else "")

    @property
    def scale(self) -> int:
        """What a value is multiplied by where it is drawn."""
        return 100 if self.unit == "percent" else 1


_TABLE = Path(__file__).with_name("glossary.csv").read_text(encoding="utf-8").splitlines()
METRICS = {row.pop("name"): Metric(**row) for row in csv.DictReader(_TABLE)}

METHODS = {
    "head": "the classification head of the model",
    "linear": "linear probe",
    "knn": "k-nearest neighbours (as a detector: distance to the k-th; as a probe: weighted vote by cosine)",
    "nearest_mean": "nearest class mean",
    "ridge": "ridge regression of class indicators, its penalty chosen on held-out train",
    "lda": "linear discriminant analysis, its shrinkage chosen on held-out train",
    "few_shot_1": "nearest mean of 1 training image a class; mean and interval over 10 draws",
    "few_shot_5": "nearest mean of 5 training images a class; mean and interval over 10 draws",
    "few_shot_10": "nearest mean of 10 training images a class; mean and interval over 10 draws",
}


def metric(name: str) -> Metric:
    """How a metric is shown; one that is not in the glossary goes by its own name."""
    if name in METRICS:
        return METRICS[name]
    unit = "percent" if name.startswith(("fpr", "aupr", "auroc")) or name.endswith(("accuracy", "_error")) else "number"
    return Metric(name, unit, "", "")


def default_method(methods: Iterable[str]) -> str:
    """The detector or probe a figure starts with: the headline's, else the first."""
    methods = list(methods)
    return next((name for name in ("linear", *HEADLINE_DETECTORS) if name in methods), methods[0])
