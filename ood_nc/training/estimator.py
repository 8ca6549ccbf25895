"""The value of the full set between its measurements, by what the batches say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEEP = 0.9
"""What a pair of measurements counts for in `Estimator.share` after one more."""
_PRIOR = 0.01
"""The square of the change that stands there for a share of 1 before anything is known."""
_DRIFT = 2.0
"""How far the bias may fall below the first."""


class Estimator:
    """The value of the full set: measured now and then, followed in between by the average of the batches' quantity.

    A batch differs from the full set in evaluation mode by its few samples, by augmentation, dropout and batch norm's
    two modes. None of it is computed; the measurements tell two things:

    - The share of a change of the average that the next measurement shows, by least squares over the past ones. A batch
      of a dozen images a class says nearly all where the classes are apart, and next to nothing where they are not: its
      average then changes by its noise alone, and the last measurement is the better estimate.
    - The bias, what the average is off by. It falls by 2 at most below the first: batches that are pushed without a
      bound end with their classes one while those of the set are still apart; then neither tells of the other, and no
      weight brings them back.

    Both go half-way, as the average lags behind features that move, which one measurement takes for a bias.

    Attributes:
        value: of the full set, by now; None before the first measurement.
        measured: of it, by the last measurement.
        bias: what is to be added to the quantity of a batch.

    Example:
        >>> estimator = Estimator()
        >>> estimator.take(1.0, kept=0.9)
        >>> estimator.correct(1.5)
        >>> estimator.take(2.0, kept=0.9)  # the average is 1.1
        >>> round(estimator.value, 2), estimator.bias
        (1.6, 0.5)
    """

    _KEPT = ("value", "measured", "bias", "_lowest", "_average", "_anchor", "_base", "_joint", "_spread")

    def __init__(self) -> None:
        self.value: float | None = None
        self.measured: float | None = None
        self.bias = self._lowest = 0.0
        self._average: float | None = None
        self._anchor: float | None = None  # the average when `measured` was
        self._base = 0.0  # the value that goes with the anchor
        self._joint = self._spread = _PRIOR

    @property
    def ready(self) -> bool:
        """Whether there is a measurement, and an average that it says something of."""
        return self._anchor is not None

    @property
    def share(self) -> float:
        """By how much of a change of the average the value is taken to change."""
        return min(max(self._joint / self._spread, 0.0), 1.0)

    def take(self, fresh: float, kept: float) -> None:
        """Take the mean quantity of new batches into the average, which keeps this share of itself."""
        self._average = fresh if self._average is None else fresh + kept * (self._average - fresh)
        if self._anchor is not None:
            self.value = self._base + self.share * (self._average - self._anchor)

    def correct(self, measured: float) -> None:
        """Take a measurement of the full set."""
        before, self.measured = self.measured, measured
        expected, self.value = self.value, measured
        if self._average is None:
            return
        found = measured - self._average
        self._base = measured
        if self._anchor is None or before is None or expected is None:
            self.bias, self._lowest = found, found - _DRIFT
        else:
            self.bias = max((self.bias + found) / 2, self._lowest)
            moved = self._average - self._anchor
            self._joint = _KEEP * self._joint + moved * (measured - before)
            self._spread = _KEEP * self._spread + moved**2
            self._base += self.share * (expected - measured) / 2
        self._anchor = self._average

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in self._KEPT:
            setattr(self, name, state[name])
