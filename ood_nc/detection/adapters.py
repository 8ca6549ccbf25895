"""Any detector behind the protocols of pytorch-ood and of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.registry import create_feature_detector
from ood_nc.errors import UserError
from ood_nc.scores.thresholds import choose_threshold

_Head = tuple[ArrayLike, "ArrayLike | None"]


class PytorchOodDetector:
    """A detector with the protocol of pytorch-ood: ``fit_features``, ``predict_features``; larger = more *outlying*.

    Args:
        detector: a detector, or a name.
        head: weight and bias of the linear head, for detectors that need logits or the head.
    """

    def __init__(self, detector: FeatureDetector | str, head: _Head | None = None) -> None:
        self.detector = create_feature_detector(detector) if isinstance(detector, str) else detector
        self.head = head

    def fit_features(self, z: Tensor, labels: Tensor | None = None) -> PytorchOodDetector:
        """Fit on features (N, d); samples whose label is negative are OOD in that protocol and left out."""
        if labels is not None:
            known = as_tensor(labels, "labels") >= 0
            z, labels = z[known], labels[known]
        self.detector.fit(z, labels, head=self.head)
        return self

    def predict_features(self, z: Tensor) -> Tensor:
        """Outlier scores (B,), ours negated; without a head, detectors of logits alone take logits as ``z``."""
        return -_score(self.detector, z, self.head)


class SklearnDetector(OutlierMixin, BaseEstimator):
    """A detector as a scikit-learn outlier estimator: +1 inlier, -1 outlier.

    ``offset_`` is chosen on a part of the train data that the detector is not fitted on, so that ``predict`` accepts a
    fresh ID sample with probability at least ``tpr``.

    Args:
        detector: a name, or an unfitted detector (it is copied).
        head: weight and bias of the linear head, for detectors that need logits or the head.
        tpr: share of ID samples to accept, in (0, 1).
        held_out: share of the train data that chooses the offset, in (0, 1).
        random_state: seed of that split.
    """

    def __init__(
        self,
        detector: FeatureDetector | str = "knn",
        head: _Head | None = None,
        tpr: float = 0.95,
        held_out: float = 0.2,
        random_state: int = 0,
    ) -> None:
        self.detector = detector
        self.head = head
        self.tpr = tpr
        self.held_out = held_out
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> SklearnDetector:
        """Fit on ID samples X (N, d) with class labels y (N,) where the detector wants them."""
        rows = as_matrix(X, "X").detach().cpu()
        order = np.random.default_rng(self.random_state).permutation(len(rows))
        count = round(self.held_out * len(rows))
        if not 0 < count < len(rows):
            raise UserError(f"held_out = {self.held_out} of {len(rows)} samples leaves a side without any.")
        calibration, train = torch.from_numpy(order[:count]), torch.from_numpy(order[count:])
        made = create_feature_detector(self.detector) if isinstance(self.detector, str) else self.detector
        labels = None if y is None else as_labels(y, len(rows)).cpu()[train]
        self.detector_ = type(made)(**made.get_params())
        if "features" in made.requires or self.head is not None:
            self.detector_.fit(rows[train], labels, head=self.head)
        else:
            self.detector_.fit(None, labels, logits=rows[train])
        self.n_features_in_ = rows.shape[1]
        self.offset_ = choose_threshold(self.score_samples(rows[calibration]), self.tpr).value
        return self

    def fit_predict(self, X: ArrayLike, y: ArrayLike | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """`fit`, with the labels, which scikit-learn's own leaves out, and `predict` of the same samples."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Scores (B,), larger = more in-distribution."""
        check_is_fitted(self, "detector_")
        return _score(self.detector_, X, self.head).cpu().numpy()

    def decision_function(self, X: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``score_samples(X) - offset_``: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> np.ndarray[Any, np.dtype[np.int64]]:
        """+1 where the sample is accepted as in-distribution, -1 elsewhere."""
        return np.where(self.decision_function(X) >= 0, 1, -1)


def _score(detector: FeatureDetector, rows: ArrayLike, head: _Head | None) -> Tensor:
    if "features" in detector.requires or head is not None:
        return detector.score(rows)
    return detector.score(None, logits=rows)
