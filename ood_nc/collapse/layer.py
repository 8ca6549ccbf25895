"""One layer as the collapse metrics read it."""

from __future__ import annotations

import torch

from ood_nc.accumulate import is_finite
from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.caching import cached_property
from ood_nc.collapse._common import Center, UndefinedMetricError
from ood_nc.collapse._pairs import DirectionSummary
from ood_nc.collapse.decision import head_predictions, nearest_means
from ood_nc.collapse.geometry import direction_summary, head_summary
from ood_nc.collapse.spectrum import MomentSpectra, moment_spectra
from ood_nc.collapse.statistics import ClassStatistics


class Layer:
    """The arguments of `measure`, and the passes over them that several metrics share, each made when first read.

    An argument that was not given, or holds NaN or infinity, raises `UndefinedMetricError` when a metric reads it.

    Attributes:
        stats: class statistics.
        center: "classes" or "samples", what class means are centred on.
        entropy_samples: samples for metrics whose cost grows with their square.
        seed: of such a subset.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, Layer
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> Layer(stats, weight=[[-1.0], [1.0]]).head_directions.closest.tolist()
        [-1.0, -1.0]
    """

    def __init__(
        self,
        stats: ClassStatistics,
        *,
        weight: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        features: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        predictions: ArrayLike | None = None,
        ood: ArrayLike | None = None,
        reference: ClassStatistics | None = None,
        center: Center = "classes",
        entropy_samples: int = 4096,
        seed: int = 0,
    ) -> None:
        self.stats: ClassStatistics = stats
        self.center: Center = center
        self.entropy_samples: int = entropy_samples
        self.seed: int = seed
        self._reference = reference or stats
        self._weight, self._bias, self._ood = weight, bias, ood
        self._features, self._labels, self._predictions = features, labels, predictions

    @cached_property
    def weight(self) -> ArrayLike:
        """W (C, d) of the head or probe."""
        return _given(self._weight, "weight")

    @cached_property
    def bias(self) -> ArrayLike | None:
        """b (C,), None for zeros."""
        return None if self._bias is None else _given(self._bias, "bias")

    @cached_property
    def features(self) -> ArrayLike:
        """The samples (N, d)."""
        return _given(self._features, "features")

    @cached_property
    def labels(self) -> ArrayLike:
        """Their classes (N,)."""
        return _given(self._labels, "labels")

    @cached_property
    def predictions(self) -> ArrayLike:
        """The head's classes (N,), as given or by W and b."""
        if self._predictions is not None:
            return self._predictions
        return head_predictions(self.features, _given(self._weight, "predictions or weight"), self.bias)

    @cached_property
    def ood(self) -> ArrayLike:
        """OOD features (N', d), or their mean (d,)."""
        return _given(self._ood, "ood")

    @cached_property
    def directions(self) -> DirectionSummary:
        """One pass over the pairs of class means."""
        return direction_summary(self.stats, self.center)

    @cached_property
    def head_directions(self) -> DirectionSummary:
        """One pass over the pairs of rows of W."""
        return head_summary(self.weight)

    @cached_property
    def moment_spectra(self) -> MomentSpectra:
        """Eigenvalues of the second moment, centred and not."""
        return moment_spectra(self.stats)

    @cached_property
    def nearest_means(self) -> torch.Tensor:
        """The nearest class mean (of the training split, where that is told) of each sample (N,)."""
        return nearest_means(self._reference, self.features)


def _given(value: ArrayLike | None, name: str) -> ArrayLike:
    if value is None:
        raise UndefinedMetricError(f"needs {name}.")
    values = as_tensor(value, name)
    if values.is_floating_point() and not is_finite(values):
        raise UndefinedMetricError(f"{name.rpartition(' ')[2]} holds NaN or infinity.")
    return value
