"""What a deployed detector is made of: fitted scores, each at its tap, and their calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ood_nc.detection import FeatureDetector, InputDetector
from ood_nc.errors import UserError
from ood_nc.scores import Threshold, choose_class_thresholds, choose_threshold, conformal_p_values


@dataclass(frozen=True)
class Member:
    """One score of the detector: a tap of the model and the detector that was fitted there.

    Attributes:
        tap: the tap; an input detector, which sees the whole network, has the head's.
        detector: fitted.
    """

    tap: str
    detector: FeatureDetector | InputDetector

    @property
    def name(self) -> str:
        """Detector and tap."""
        return f"{self.detector.name} on {self.tap}"


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out ID images, which no part of the detector was fitted on.

    Attributes:
        scores: (n,) float64.
        classes: predicted class of each (n,) where thresholds and p-values hold class by class, else None.
        tpr: share of fresh ID images that is accepted at least.

    Raises:
        UserError: no score, one that is not finite, or classes that do not fit them.
    """

    scores: torch.Tensor
    classes: torch.Tensor | None
    tpr: float

    def __post_init__(self) -> None:
        scores, classes = self.scores, self.classes
        if scores.ndim != 1 or scores.dtype != torch.float64 or not len(scores) or not bool(scores.isfinite().all()):
            raise UserError("A calibration needs one finite float64 score or more.")
        if classes is not None and (classes.dtype != torch.int64 or classes.shape != scores.shape):
            raise UserError("A calibration by class needs the predicted class of every score.")

    def threshold(self) -> Threshold:
        """The threshold for all classes together."""
        return choose_threshold(self.scores, self.tpr)

    def class_thresholds(self) -> dict[int, Threshold]:
        """The threshold of each class; empty where there is one for all."""
        return {} if self.classes is None else choose_class_thresholds(self.scores, self.classes, self.tpr)

    def p_values(self, scores: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        """Conformal p-values (B,) of scores (B,)."""
        if self.classes is None:
            return conformal_p_values(scores, self.scores)
        return conformal_p_values(scores, self.scores, classes=predictions, held_out_classes=self.classes)
