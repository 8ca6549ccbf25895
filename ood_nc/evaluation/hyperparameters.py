"""What detectors settle before the test: on ID images held out of their fit, never on a set that is reported."""

from __future__ import annotations

from dataclasses import dataclass

from ood_nc.detection import FeatureDetector, TapQueries, TapStatistics, select, synthetic_outliers
from ood_nc.evaluation.inputs import VALIDATION_OOD
from ood_nc.evaluation.taps import TapData, labelled

NONE, SYNTHETIC = "none", "synthetic"
_SYNTHETIC_OUTLIERS = "held-out ID and synthetic outliers"


@dataclass(frozen=True)
class Tuning:
    """How hyper-parameters are chosen: those that best tell held-out ID from outliers.

    Attributes:
        outliers: ``synthetic`` (made from the features of held-out ID alone), or the name of an OOD set.
        seed: of the synthetic outliers and of the search.
    """

    outliers: str
    seed: int

    def choose(self, detector: FeatureDetector, tap: TapData, train: TapStatistics) -> str | None:
        """Set a detector's hyper-parameters; returns what they were chosen on, None where there is nothing to choose.

        Raises:
            UserError: no combination of them can be fitted here.
        """
        if not detector.hyperparameters():
            return None
        held_out = _queries(tap, "id_val")
        if self.outliers == SYNTHETIC:
            made = synthetic_outliers(tap.features["id_val"], tap.labels["id_val"], seed=self.seed)
            outliers, where = TapQueries(made, head=tap.head), _SYNTHETIC_OUTLIERS
        else:
            outliers, where = _queries(tap, VALIDATION_OOD), f"held-out ID and {self.outliers}"
        found = select(detector.name, train, held_out, outliers, selected_on=where, seed=self.seed)
        detector.set_params(**found.parameters)
        return f"{found.selected_on} ({', '.join(f'{name}={value}' for name, value in found.parameters.items())})"


def statistics_of(tap: TapData) -> TapStatistics:
    """What detectors are fitted on at a tap: ID train, and held-out ID where there is some."""
    held_out = _statistics(tap, "id_val", None) if "id_val" in tap.features else None
    return _statistics(tap, "id_train", held_out)


def _statistics(tap: TapData, key: str, held_out: TapStatistics | None) -> TapStatistics:
    labels = tap.labels[key] if labelled(tap.labels[key]) else None
    return TapStatistics(tap.features[key], labels, logits=tap.own_logits.get(key), head=tap.head, held_out=held_out)


def _queries(tap: TapData, key: str) -> TapQueries:
    return TapQueries(tap.features[key], logits=tap.own_logits.get(key), head=tap.head)
