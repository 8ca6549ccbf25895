"""The section of a run that follows every layer's input over training (`ood_nc.intermediate`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ood_nc.config.values import Section, flag


class IntermediateConfig(Section):
    """What is measured on the input of every linear and convolutional layer, and when."""

    epochs: list[Annotated[int, Field(ge=1)]] = flag([], "epochs after which it is measured; the end always is")
    images: int = Field(default=10_000, ge=2, description="ID training images (a seeded sample) it is measured on")
    rank: int = Field(default=10, ge=1, description="singular vectors that PABS of a convolution compares")
    tolerance: float = Field(default=0.01, ge=0, lt=1, description="of the effective depth: share that may be wrong")
