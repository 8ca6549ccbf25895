"""The section of a run on images with any number of labels (`ood_nc.multilabel`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ood_nc.config.values import Section, flag, in_list

Count = Annotated[int, Field(ge=0, le=10**6)]
Labels = Annotated[int, Field(ge=1, le=3)]
Counts = dict[Labels, Annotated[list[Count], BeforeValidator(in_list), Field(min_length=1)]]


class MultilabelConfig(Section):
    """Label sets: of a table in `data.train` (CSV or Parquet), or composed of the single-label images there."""

    place: Literal["corners", "shift"] = flag("corners", "how images are composed: as MLab-MNIST or as MLab-CIFAR")
    counts: Counts = flag(
        {1: [3100], 2: [200]}, "composed images of each label set, by its number of labels; several numbers in turn"
    )
    test_counts: Counts = flag({1: [800], 2: [50]}, "likewise, of the test set")
    miss_rate: float = flag(0.1, "at most so often a label's threshold misses it", gt=0, lt=1)
