"""The section of a run that follows every layer's input over training (`ood_nc.intermediate`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ood_nc.config.values import Section, flag


class IntermediateConfig(Section):
    """What is measured on the input of every linear and convolutional layer, and when."""

    epochs: list[Annotated[int, Field(ge=1)]] = flag([], "epochs after which it is measured; the end always is")
    images: int = flag(10_000, "ID training images (a seeded sample) it is measured on", ge=2)
    rank: int = flag(10, "singular vectors that PABS of a convolution compares", ge=1)
    tolerance: float = flag(0.01, "of the effective depth: share that may be wrong", ge=0, lt=1)
