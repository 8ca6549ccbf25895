"""The section of a run on images with any number of labels (`ood_nc.multilabel`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ood_nc.config.values import Section, flag

Count = Annotated[int, Field(ge=0, le=10**6)]
Labels = Annotated[int, Field(ge=1, le=3)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Counts = dict[Labels, Annotated[list[Count], BeforeValidator(_as_list), Field(min_length=1)]]


class MultilabelConfig(Section):
    """Label sets: of a table in `data.train` (CSV or Parquet), or composed of the single-label images there."""

    place: Literal["corners", "shift"] = flag("corners", "how images are composed: as MLab-MNIST or as MLab-CIFAR")
    counts: Counts = flag(
        {1: [3100], 2: [200]}, "composed images of each label set, by its number of labels; several numbers in turn"
    )
    test_counts: Counts = flag({1: [800], 2: [50]}, "likewise, of the test set")
    miss_rate: float = Field(default=0.1, gt=0, lt=1, description="at most so often a label's threshold misses it")
