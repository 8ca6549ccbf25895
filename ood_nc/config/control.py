"""The schema of a controlled tap: which collapse it is to have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ood_nc.config.values import Section, Text, flag

RANGES: dict[str, tuple[float, float]] = {
    "nc1": (0.0, 1e6),
    "vci": (0.0, 1.0),
    "effective_rank": (1.0, 1e6),
    "entropy": (-20.0, 0.7),
}
"""What a target can be, ends excluded; no distance on the unit sphere is above 2, whose logarithm is 0.69."""


class ControlConfig(Section):
    """The collapse that a tap is to have, in place of a weight of its entropy."""

    tap: Text = flag("encoder", "which tap")
    metric: Literal["nc1", "vci", "effective_rank", "entropy"] = flag(
        "nc1", "nc1_pinv, vci, effective_rank or entropy_nn of the ID training images"
    )
    target: float = Field(description="the value it is to have")
    side: Literal["at", "above", "below"] = flag("at", "at the target, or anywhere above or below it")

    @model_validator(mode="after")
    def _within_range(self) -> ControlConfig:
        low, high = RANGES[self.metric]
        if not low < self.target < high:
            raise ValueError(f"target is {self.target:g}: {self.metric} lies between {low:g} and {high:g}")
        return self
