"""The schema of the data of a run: ID, OOD and transfer sets, and how their pixels are read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ood_nc.config.values import Section, SetName, Text, flag


class OodSet(Section):
    """One OOD set: where it is and what kind it is."""

    source: Text = Field(description="a data source (`ood-nc list datasets`)")
    group: Literal["near", "far", "covariate"] = flag("far", "near, far or covariate-shifted OOD")


class TransferSet(Section):
    """One transfer task. With `train` alone, a fifth of it (stratified, seed 0) is the test split."""

    train: Text = Field(description="the source that the probe is fitted on")
    test: Text | None = flag(None, "the source on which the probe is read once")


def _short_for(key: str) -> BeforeValidator:
    """Text stands for the mapping that has it under the key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _apart(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError("what is black must be smaller than what is white")
    return value


class PixelConfig(Section):
    """How stored values become 8-bit pixels (`ood_nc.data.pixels` has the rules); part of a model's preprocessing."""

    value_range: Annotated[tuple[float, float], AfterValidator(_apart)] | None = flag(
        None, "values that are black and white, for images of more than 8 bits; by their type when not given"
    )
    background: Literal["white", "black", "ignore"] = flag(
        "white", "what shows through transparent pixels; ignore takes what is stored beneath"
    )
    orientation: bool = flag(True, "turn photographs as their EXIF data says")
    max_pixels: int = flag(178_956_970, "largest image that is decoded", ge=1, le=2**40)


class DataConfig(Section):
    """The ID data and what it is compared with. Sources are relative to `root`."""

    root: Text | None = flag(None, "folder that relative sources are looked up in", "--data-dir")
    train: Text = flag("bundled/digits-id::train", "ID training data")
    val: Text | None = flag(None, "ID validation data; a share of `train` when not given")
    val_fraction: float = flag(0.1, "that share, stratified and seeded; it is never trained on", gt=0, lt=1)
    test: Text | None = flag("bundled/digits-id::test", "held-out ID data, read once")
    suite: Text | None = flag(None, "benchmark suite whose OOD and transfer sets are added (`ood-nc list suites`)")
    ood: dict[SetName, Annotated[OodSet, _short_for("source")]] = flag({}, "OOD sets by name")
    outliers: Text | None = flag(None, "images shown as outliers in training, for losses that read them")
    transfer: dict[SetName, Annotated[TransferSet, _short_for("train")]] = flag({}, "transfer tasks by name")
    limit: int | None = flag(None, "at most so many images of a class, for ID train", ge=1)
    eval_limit: int | None = flag(None, "at most so many images of any other set", ge=1)
    max_inflated: int = flag(2**28, "bytes a compressed file may inflate to; 100 times its own always", ge=1, le=2**50)
    cache: Text | None = flag(
        None, "keep decoded training images: memory, or the folder of a file that runs and processes share"
    )
    pixels: PixelConfig = Field(default_factory=PixelConfig)
    skip_broken: bool = flag(False, "leave out images of the training that cannot be read, instead of stopping")
