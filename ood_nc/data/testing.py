"""What every data source must hold to: ``check_source("mine/NAME::test")`` in the tests of a package that adds one."""

from __future__ import annotations

import inspect
import pickle
from collections import Counter
from pathlib import Path

import numpy as np

from ood_nc.conformance import require, require_refusal
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.registry import SOURCES
from ood_nc.data.sources import open_dataset

_LOOKED_AT = 16


def check_source(source: str, *, root: str | Path | None = None) -> None:
    """Open one small set of a source and check it: ids, labels, images, repetition, loader workers, errors.

    Args:
        source: ``KIND/NAME`` or ``KIND/NAME::SPLIT``, as `open_dataset` takes it.
        root: the data root.

    Raises:
        CheckError: it breaks the protocol; the message says how.
        UserError: no source of that kind, or it does not open.

    Example:
        >>> check_source("bundled/digits-id::test")
    """
    what = f"Source {source!r}"
    opener = SOURCES[source.partition("/")[0]]
    require(bool(inspect.getdoc(opener)), what, "has no docstring")
    dataset = open_dataset(source, root=root)
    require(isinstance(dataset, ImageDataset), what, f"opens a {type(dataset).__name__}, not an ImageDataset")
    require(len(dataset) > 0, what, "holds no image")
    _check_ids(dataset, what)
    _check_labels(dataset, what)
    _check_images(dataset, what)
    again = open_dataset(source, root=root)
    require(again.ids == dataset.ids, what, "has other ids, or another order, when opened again")
    require(again.fingerprint() == dataset.fingerprint(), what, "has another fingerprint when opened again")
    _check_workers(dataset, what)
    _check_mistake(source, root, what)


def _check_ids(dataset: ImageDataset, what: str) -> None:
    most, times = Counter(dataset.ids).most_common(1)[0]
    require(times == 1, what, f"gives {times} samples the id {most!r}")
    bad = [name for name in dataset.ids if not isinstance(name, str) or not name or Path(name).is_absolute()]
    require(not bad, what, f"has {bad[:1]} for an id: ids are relative, path-like names, the same on every machine")


def _check_labels(dataset: ImageDataset, what: str) -> None:
    targets, names = dataset.targets, dataset.class_names
    if names is not None:
        require(len(set(names)) == len(names), what, "has two classes of one name")
        require(int(targets.max()) < len(names), what, f"has the label {targets.max()} and {len(names)} class names")


def _chosen(dataset: ImageDataset) -> list[int]:
    return sorted(set(np.linspace(0, len(dataset) - 1, _LOOKED_AT).astype(int).tolist()))


def _check_images(dataset: ImageDataset, what: str) -> None:
    for index in _chosen(dataset):
        image, target = dataset[index]
        where = f"at {dataset.ids[index]!r}"
        require(getattr(image, "mode", None) == "RGB", what, f"gives no RGB image {where}")
        require(target == dataset.targets[index], what, f"gives the label {target} {where}, not that of its targets")
        require(image.tobytes() == dataset.load(index).tobytes(), what, f"gives other pixels the second time {where}")
        require(bool(dataset.content(index)), what, f"has no content {where}")


def _check_workers(dataset: ImageDataset, what: str) -> None:
    """A loader sends the data set to its workers, and a split is a view of it."""
    index = len(dataset) - 1
    try:
        copy = pickle.loads(pickle.dumps(dataset))
    except Exception as error:
        require(False, what, f"cannot be sent to loader workers ({type(error).__name__}: {error})")
    last = dataset.load(index).tobytes()
    require(copy.load(index).tobytes() == last, what, "gives other pixels in a loader worker")
    require(dataset.subset([index]).load(0).tobytes() == last, what, "gives other pixels in a subset")


def _check_mistake(source: str, root: str | Path | None, what: str) -> None:
    kind = source.partition("/")[0]
    require_refusal(what, "a name that is not there", lambda: open_dataset(f"{kind}/no-such-set-{'x' * 8}", root=root))
