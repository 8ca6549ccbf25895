r"""The law by which a weight follows a target: the method of multipliers, on a clock of its own.

The loss is the task's plus w g, where raising w raises the controlled value. Let e = target - value, both logarithms
(entropy is one already). Dual ascent on the constraint e = 0 would be dw = K e dt. Near an equilibrium the value
follows the weight as a first-order lag, tau dy/dt = gain w - y, so with dual ascent alone the loop is tau s^2 + s +
K gain: it swings where K > 1 / (4 tau gain). The augmented Lagrangian adds a penalty on e^2, whose gradient is that of
g with a weight proportional to e. With such a part P the loop is tau s^2 + (1 + P gain) s + K gain, which bears a K
that is (1 + P gain)^2 times as large before it swings.

Two changes of scale make one pair of constants do. Weights that matter span decades, so what moves is u with
w = a sinh(u): proportional to the weight near 0, to its logarithm beyond, and of either sign. And the clock t is the
sum of the square roots of the learning rates, as shares of the highest, as share of the run. The pace at which features
follow falls with the rate, but so does what keeps them apart: a network collapses while its rate decays, and a clock of
the rates themselves leaves the weight behind. The loop is as quick in a short run as in a long one, and rests while
the rate is 0.

Source: Hestenes, "Multiplier and gradient methods", 1969; Stooke, Achiam, Abbeel, "Responsive safety in reinforcement
learning by PID Lagrangian methods", ICML 2020, for the loop it makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

UNIT = 0.01
"""The a of a sinh(u): a weight that hardly matters."""

LARGEST_WEIGHT = 2.0
INTEGRAL, PROPORTIONAL = 16.0, 1.5
TOLERANCE = math.log(1.1)
PATIENCE = 0.1
"""How long, in that clock, the weight may be at its end with the error above the tolerance, before that is said."""

_END = math.asinh(LARGEST_WEIGHT / UNIT)


class Steering:
    """The weight of one controlled tap.

    Args:
        target: what the value is to be, in the units of the error.
        side: ``at`` the target; ``above`` or ``below`` it, where the weight is 0 beyond it.

    Example:
        >>> steering = Steering(target=0.0)
        >>> steering.update(value=-0.5, elapsed=0.01)
        >>> round(steering.weight, 4)  # 0.01 sinh(16 * 0.5 * 0.01 + 1.5 * 0.5)
        0.0093
    """

    def __init__(self, target: float, side: Literal["at", "above", "below"] = "at") -> None:
        self.target = target
        self._low, self._high = {"at": (-_END, _END), "above": (0.0, _END), "below": (-_END, 0.0)}[side]
        self._integral = self._level = self._stuck = 0.0

    def update(self, value: float, elapsed: float) -> None:
        """Move the weight after ``elapsed`` of the run's clock at this value."""
        error = min(max(self.target - value, -1.0), 1.0)
        self._integral = self._inside(self._integral + INTEGRAL * error * elapsed)
        self._level = self._inside(self._integral + PROPORTIONAL * error)
        beyond = self._level >= self._high if error > 0 else self._level <= self._low
        useless = self._high == 0 if error > 0 else self._low == 0
        self._stuck = self._stuck + elapsed if beyond and not useless and abs(error) > TOLERANCE else 0.0

    @property
    def gives_up(self) -> bool:
        """Whether the weight has been at its end for long and the value is still off."""
        return self._stuck > PATIENCE

    @property
    def weight(self) -> float:
        """How strongly the value is raised; lowered, where negative."""
        return UNIT * math.sinh(self._level)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"integral": self._integral, "level": self._level, "stuck": self._stuck}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._integral, self._level, self._stuck = state["integral"], state["level"], state["stuck"]

    def _inside(self, level: float) -> float:
        return min(max(level, self._low), self._high)
