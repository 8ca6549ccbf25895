"""What remains of a tap's ID train data after one pass in which no sample is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike
from ood_nc.detection.context import TapStatistics
from ood_nc.detection.head import as_head
from ood_nc.errors import UserError


class TapMoments(TapStatistics):
    """Class means and scatter of ID train at a tap, in the place of the samples; whoever asks for these is refused.

    Args:
        classes: indices of the classes that have samples, ascending (K,).
        counts: samples of each (K,).
        means: mean of each (K, d) float64.
        within: covariance around the own class mean, tied over classes, over N (d, d) float64.
        lowest: the smallest feature.
        head: weight (C, d) and bias (C,) or None.

    Example:
        >>> import torch
        >>> from ood_nc.detection import create_detector
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> moments = TapMoments(torch.arange(2), one, torch.tensor([[0.0], [4.0]]).double(), torch.eye(1).double())
        >>> create_detector("mahalanobis").fit(moments).score([[0.0], [1.0], [2.0]])
        tensor([-0., -1., -4.], dtype=torch.float64)
    """

    def __init__(
        self,
        classes: Tensor,
        counts: Tensor,
        means: Tensor,
        within: Tensor,
        *,
        lowest: float = 0.0,
        head: tuple[ArrayLike, ArrayLike | None] | None = None,
    ) -> None:
        # Not the constructor of the base, which takes samples: what it would compute of them is given.
        self._features, self._given_logits, self._held_out, self._labels = None, None, None, classes
        self._head = as_head(head, means.shape[1])
        self._origin, self._count = means.device, int(counts.sum())
        mean = counts.double() / self._count @ means
        vars(self).update(classes=classes, class_counts=counts.long(), class_means=means, mean=mean)
        vars(self).update(within_covariance=within, _lowest=lowest)

    @property
    def available(self) -> frozenset[str]:
        """Which of "features", "labels", "logits", "head" there are moments of."""
        found = {"nonnegative", "features", "labels"}
        return frozenset(found | ({"head", "logits"} if self.has_head else set()))

    @property
    def features(self) -> Tensor:
        """None is kept: raises `UserError`."""
        raise UserError("it needs the train features themselves, and no bank is kept")

    @property
    def labels(self) -> Tensor:
        """None is kept: raises `UserError`."""
        return self.features

    @property
    def dim(self) -> int:
        """Width of the features."""
        return int(self.class_means.shape[1])

    @property
    def num_logits(self) -> int:
        """Width of the logits."""
        return len(self.head.bias)

    @property
    def device(self) -> torch.device:
        """Where the computation runs."""
        return self._origin

    def __len__(self) -> int:
        return self._count

    def check(self, names: frozenset[str]) -> None:
        """Nothing: moments of values that are not finite are refused when they are taken."""
