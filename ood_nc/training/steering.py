r"""The law that holds a quantity of the batch where the full set has its target: an augmented Lagrangian.

Let q be the quantity of a batch (its log NC1, say), y that of the full set in evaluation mode, as estimated, and b the
bias between them. With a = target - b the loss is the task's plus

.. math:: w q + \frac{P}{2} (q - a)^2, \qquad w = m + G(t) (y - target), \qquad \dot m = K (y - target).

Its gradient is that of q with the weight w + P (q - a), so each batch is pushed by its own distance, with no lag and in
both directions; the multiplier m takes over what the task pulls with, and then y is on target. By itself the penalty
would stop where P (q - a) equals that pull; by itself the multiplier would swing, since it is an integral. G pushes by
the distance of the set, which a noisy batch does not move. It rises from 0, as the penalty of an augmented Lagrangian
does: early on the estimate lags behind, later it stands nearly still and what is off is off for good. As q is the
controlled quantity itself, one unit of it is about one unit of y, whatever network, data or length. What the integral
takes is clipped, so that the way to the target, which is no pull of the task, does not fill it.

The clock t is the sum of the square roots of the learning rates, as shares of the highest, as share of the run, so the
loop is as quick in a short run as in a long one. What features do in a late step falls with the rate, and the weight's
pull with it: G is divided by the root of the rate, so that what is off late is still mended while anything moves. Only
as far as y is measured, though: an estimate that follows the batches' average lags behind, and swings if pushed harder.

Source: Hestenes, "Multiplier and gradient methods", 1969; Stooke, Achiam, Abbeel, "Responsive safety in reinforcement
learning by PID Lagrangian methods", ICML 2020, for the loop it makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

LOWEST_WEIGHT, LARGEST_WEIGHT = -4.0, 1.0
"""Where the weight ends. Beyond 1 the pull together hinders features from being learnt, and the value gets no lower."""
LATE = 0.5
"""The damping down to which the upper end rises, as one over it: little is learnt then that could be hindered."""
COMMON = 0.75
"""The share of the lowest weight that all batches may have: those far above their aim are not pushed further apart."""

PENALTY, INTEGRAL, PROPORTIONAL = 2.0, 16.0, 12.0
"""P, K, and G once it has risen, at the highest rate."""
RISE = 0.4
"""When G has risen, in the clock; a whole run under a cosine is 0.64."""
WEAKEST = 0.1
"""The damping below which G rises no further."""
CLIP = 0.3
"""The largest error that the integral takes."""
TOLERANCE = math.log(1.1)
PATIENCE = 0.1
"""How long, in that clock, the weight may be at its end with the error above the tolerance, before that is said."""


class Steering:
    """The weight on the quantity of one controlled tap.

    Args:
        side: ``at`` the target; ``above`` or ``below`` it, where the weight is 0 beyond it.

    Example:
        >>> steering = Steering()
        >>> steering.update(error=0.5, elapsed=0.01)  # the target less the value
        >>> round(steering.multiplier, 4)
        -0.08
        >>> round(float(steering.weight(torch.tensor(0.25))), 4)  # of a batch a quarter above its aim
        0.42
    """

    _KEPT = ("multiplier", "_push", "_level", "_clock", "_stuck", "_high")

    def __init__(self, side: Literal["at", "above", "below"] = "at") -> None:
        self.low = 0.0 if side == "below" else LOWEST_WEIGHT
        self.high = self._high = 0.0 if side == "above" else LARGEST_WEIGHT
        self.multiplier = self._push = self._level = self._clock = self._stuck = 0.0

    def update(self, error: float, elapsed: float, damping: float = 1.0) -> None:
        """Move the weight after ``elapsed`` of the run's clock at this target less the value.

        Args:
            error: the target less the value.
            elapsed: share of the clock.
            damping: what G is divided by: the root of the rate as share of its highest, or more where the error lags.
        """
        error = min(max(error, -1.0), 1.0)
        self._high = self.high / max(damping, LATE)
        if self.low < self.multiplier - PENALTY * error < self._high:  # else it winds up, and has to come back later
            taken = min(max(error, -CLIP), CLIP)
            self.multiplier = min(max(self.multiplier - INTEGRAL * taken * elapsed, self.low), self._high)
        self._clock += elapsed
        self._push = -PROPORTIONAL * min(1.0, self._clock / RISE) / max(damping, WEAKEST) * error
        self._level = self._common - PENALTY * error
        beyond = self._common <= COMMON * self.low if error > 0 else self._level >= self._high
        useless = self.low == 0 if error > 0 else self.high == 0
        if not beyond or useless or abs(error) <= TOLERANCE:
            self._stuck = 0.0
        else:  # of the error's sign: to come from one end to the other is not to be stuck
            same = self._stuck * error >= 0
            self._stuck = (self._stuck if same else 0.0) + math.copysign(elapsed, error)

    def weight(self, excess: torch.Tensor) -> torch.Tensor:
        """The weight for a batch whose quantity is so far above its aim."""
        return (self._common + PENALTY * excess).clamp(self.low, self._high)

    @property
    def _common(self) -> float:
        """What all batches have in common."""
        return min(max(self.multiplier + self._push, COMMON * self.low), self._high)

    @property
    def level(self) -> float:
        """The weight for a batch like the running average."""
        return min(max(self._level, self.low), self._high)

    @property
    def gives_up(self) -> bool:
        """Whether the weight has been at its end for long and the value is still off."""
        return abs(self._stuck) > PATIENCE

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in self._KEPT:
            setattr(self, name, state[name])
