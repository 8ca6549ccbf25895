"""What fitting a detector takes, for a measurement and for deployment alike: banks, numbered classes, held-out ID.

Everything that is settled before the test is settled on ID images held out of the fit (``id_val``), never on a set
that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ood_nc.data import VALIDATION_OOD, ImageDataset, align_classes
from ood_nc.detection import FeatureDetector, Selection, TapQueries, TapStatistics, select, synthetic_outliers
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.taps import TapData, labelled
from ood_nc.features import BankStore, FeatureBank, extract
from ood_nc.models import weights_hash

NONE, SYNTHETIC = "none", "synthetic"
_SYNTHETIC_OUTLIERS = "held-out ID and synthetic outliers"

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Extractor = Callable[[ImageDataset], FeatureBank]


class BankExtractor:
    """What makes the feature bank of a data set, kept in the folder ``cache`` where one is given.

    Args:
        model: as for `ood_nc.features.extract`.
        cache: folder of banks, a store of them, or None.
        weights: the model's `weights_hash`, where the caller already has it.
        dtype: of the features: float32, float16 or bfloat16.
        **options: passed on to `extract`.

    Raises:
        UserError: another dtype.
    """

    def __init__(
        self,
        model: Any,
        cache: str | Path | BankStore | None,
        *,
        weights: str | None = None,
        dtype: str = "float32",
        **options: Any,
    ) -> None:
        if dtype not in _DTYPES:
            raise UserError(f"Unknown bank_dtype {dtype!r}: use {', '.join(_DTYPES)}.{nearest(dtype, _DTYPES)}")
        self._model, self._dtype, self._options = model, _DTYPES[dtype], options
        self._store = cache if cache is None or isinstance(cache, BankStore) else BankStore(cache, self._dtype)
        self._weights = weights or (None if cache is None else weights_hash(model))

    def __call__(self, dataset: ImageDataset) -> FeatureBank:
        """The bank of a data set."""
        if self._store is None:
            return extract(self._model, dataset, dtype=self._dtype, **self._options)
        return self._store.get(self._model, dataset, weights=self._weights, **self._options)

    def begin(self, datasets: Sequence[ImageDataset]) -> None:
        """Refuse what the disk cannot hold, before the first pass.

        Raises:
            UserError: with the bytes needed and those free.
        """
        if self._store is not None:
            self._store.check_space(self._model, datasets, weights=self._weights, **self._options)


class NumberedClasses(NamedTuple):
    """ID sets with their classes numbered alike.

    Attributes:
        train: what is fitted on.
        others: the other ID sets.
        head_fits: whether the head's outputs are these classes.
        note: what there is to say about that, or empty.
    """

    train: ImageDataset
    others: list[ImageDataset]
    head_fits: bool
    note: str


def number_classes(model: Any, train: ImageDataset, others: Sequence[ImageDataset]) -> NumberedClasses:
    """Number the classes of ID sets by name: as the model stores them, else as the train set does.

    Raises:
        UserError: a set holds a class that is not known.
    """
    names = model.class_names or train.class_names
    if names is not None:
        train, others = align_classes(train, names), [align_classes(one, names) for one in others]
    others, classes = list(others), train.num_classes
    if model.class_names is not None:
        return NumberedClasses(train, others, True, "")
    if classes != model.num_classes:
        note = f"the head has {model.num_classes} outputs for {classes} ID classes"
        return NumberedClasses(train, others, False, f"{note}: an ID probe stands in for it on every tap")
    if getattr(model, "head_is_fresh", False):
        note = "there is no trained head: an ID probe stands in for it on every tap"
        return NumberedClasses(train, others, False, note)
    note = f"the model stores no class names; its {classes} outputs are taken to be the ID classes in order"
    return NumberedClasses(train, others, True, note)


def order_note(accuracy: float, high: float, num_classes: int, images: str) -> str:
    """What to say where a head is right less often than by chance, as it is where classes are in another order.

    Args:
        accuracy: of the head.
        high: the end of its interval; below chance, something is said.
        num_classes: of the head.
        images: what they are called, on which it was measured.
    """
    if high >= 1 / num_classes:
        return ""
    return (
        f"the head is right on {accuracy:.1%} of {images}, less than chance: are its outputs the ID classes in another "
        "order? What reads them beside labels is wrong then"
    )


@dataclass(frozen=True)
class Tuning:
    """How hyper-parameters are chosen: those that best tell held-out ID from outliers.

    Attributes:
        outliers: ``synthetic`` (made from the features of held-out ID alone), or what the OOD set under the key
            `VALIDATION_OOD` is called.
        seed: of the synthetic outliers and of the search.
    """

    outliers: str
    seed: int

    def choose(self, detector: FeatureDetector, tap: TapData, train: TapStatistics) -> Selection | None:
        """Set a detector's hyper-parameters; returns how they were chosen, None where there is nothing to choose.

        Raises:
            UserError: no combination of them can be fitted here.
        """
        if not detector.hyperparameters():
            return None
        if self.outliers == SYNTHETIC:
            outliers, where = outliers_of(tap, self.seed), _SYNTHETIC_OUTLIERS
        else:
            outliers, where = queries_of(tap, VALIDATION_OOD), f"held-out ID and {self.outliers}"
        found = select(detector.name, train, queries_of(tap, "id_val"), outliers, selected_on=where, seed=self.seed)
        detector.set_params(**found.parameters)
        return found


def statistics_of(tap: TapData) -> TapStatistics:
    """What detectors are fitted on at a tap: ID train, and held-out ID where there is some."""
    held_out = _statistics(tap, "id_val", None) if "id_val" in tap.features else None
    return _statistics(tap, "id_train", held_out)


def queries_of(tap: TapData, key: str) -> TapQueries:
    """What detectors score of a set at a tap."""
    return TapQueries(tap.features[key], logits=tap.own_logits.get(key), head=tap.head)


def outliers_of(tap: TapData, seed: int) -> TapQueries:
    """Outliers made of the features of held-out ID at a tap (`ood_nc.detection.synthetic_outliers`).

    Raises:
        UserError: fewer than two of them.
    """
    labels = tap.labels["id_val"] if labelled(tap.labels["id_val"]) else None
    made = synthetic_outliers(tap.features["id_val"], labels, seed=seed)
    return TapQueries(made.to(tap.features["id_val"].device), head=tap.head)


def _statistics(tap: TapData, key: str, held_out: TapStatistics | None) -> TapStatistics:
    labels = tap.labels[key] if labelled(tap.labels[key]) else None
    return TapStatistics(tap.features[key], labels, logits=tap.own_logits.get(key), head=tap.head, held_out=held_out)
