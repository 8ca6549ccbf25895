"""Whether confidences are right as often as they say."""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.errors import UserError


def calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Samples are put into equally wide bins (low, high] of confidence; the error is the mean over samples of the
    distance between the mean confidence and the accuracy of their bin.

    Args:
        confidences: (N,) in [0, 1], of the predicted class.
        correct: (N,), whether the prediction is right.
        bins: how many.

    Raises:
        UserError: shapes disagree, there are no samples, or a confidence is outside [0, 1].

    Example:
        >>> from ood_nc.scores import calibration_error
        >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0]), 3)
        0.1
    """
    p = as_tensor(confidences, "confidences").double().cpu().numpy()
    right = as_tensor(correct, "correct").double().cpu().numpy()
    if p.ndim != 1 or p.shape != right.shape or not len(p):
        raise UserError(f"Confidences (N,) and as many answers are needed, got {p.shape} and {right.shape}.")
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"Confidences must be in [0, 1], got {p.min():.4g} to {p.max():.4g}.")
    place = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, p - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))
