"""Data sets of other libraries: torchvision's, and the loaders behind timm's ``create_dataset``."""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ood_nc.data.dataset import ImageDataset, reason
from ood_nc.data.pixels import to_rgb
from ood_nc.data.stores import FileStore, Store, WrappedStore
from ood_nc.errors import MissingPackageError, UserError, nearest
from ood_nc.progress import progress

_PACKAGES = {"hfds": "datasets", "wds": "webdataset", "tfds": "tensorflow-datasets"}
_MODULES = {"hfds": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}
_LABELS = ("targets", "_labels", "labels")
_LOOKS = 256
"""Items of someone's own data set whose labels are held against the list that it keeps."""


# Where a set names its parts otherwise than train, split or image_set.
_PARTS = {"INaturalist": "version", "LSUN": "classes", "QMNIST": "what"}

# What comes behind the name, torchvision/NAME/VARIANT::SPLIT: an argument of the set and the values it can have.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DTD": ("partition", {str(number): number for number in range(1, 11)}),
    "EMNIST": ("split", {name: name for name in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")}),
    "FGVCAircraft": ("annotation_level", {name: name for name in ("variant", "family", "manufacturer")}),
    "Imagenette": ("size", {name: name for name in ("full", "320px", "160px")}),
    "Places365": ("small", {"small": True}),
}


def open_torchvision(name: str, root: Path, split: str) -> ImageDataset:
    """A classification set of torchvision, from ``root``. Nothing is downloaded; the error says how to.

    Args:
        name: of the class, and the variant where it has some: ``CIFAR10``, ``EMNIST/balanced``.
        root: where its files are.
        split: by the set's own name; its default when empty.

    Raises:
        MissingPackageError: it needs a package that is not installed.
        UserError: no such set, variant or split, or it is not in ``root``.
    """
    import torchvision.datasets as collection

    where = f"torchvision/{name}" + (f"::{split}" if split else "")
    name, _, variant = name.partition("/")
    factory: Any = getattr(collection, name, None) if name in collection.__all__ else None
    if factory is None:
        raise UserError(f"torchvision has no data set {name!r}.{nearest(name, collection.__all__)}")
    accepted = _arguments(factory)
    if "root" not in accepted:
        raise UserError(f"torchvision/{name} keeps no images on disk: choose another data set.")
    settings = {**_variant(name, variant), **_part(name, split, accepted)}
    offline = {"download": False} if "download" in accepted else {}  # some would by themselves
    try:
        items = factory(root=str(root), **settings, **offline)
    except (RuntimeError, OSError, ImportError) as error:
        if isinstance(error, ImportError) or isinstance(error.__context__, ImportError):
            raise MissingPackageError(f"{where} needs another package ({reason(error)}).") from error
        raise UserError(f"{where} is not in {root}: {_how_to_fetch(name, root, settings, accepted)}.") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} cannot be opened ({reason(error)}).") from error
    try:
        targets = labels_of(items, name)
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, OSError) as error:
        raise UserError(f"{where} cannot be read as images with one label each ({reason(error)}).") from error
    classes = getattr(items, "classes", None)
    class_names = [str(entry) for entry in classes] if classes is not None and len(classes) > targets.max() else None
    ids = [f"{split or 'all'}/{index:06d}" for index in range(len(targets))]
    return ImageDataset(WrappedStore(items), name=where, ids=ids, targets=targets, class_names=class_names)


def _arguments(factory: Any) -> set[str]:
    """What a set can be given, those among it that it passes on to the set it is derived from."""
    found: set[str] = set()
    for one in factory.__mro__:
        parameters = inspect.signature(one).parameters
        found |= parameters.keys()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found


def _variant(name: str, variant: str) -> dict[str, Any]:
    argument, known = _VARIANTS.get(name, ("", {}))
    if variant in known:
        return {argument: known[variant]}
    if variant:
        hint = f": use {', '.join(known)}" if known else f": leave /{variant} out"
        raise UserError(f"torchvision/{name} has no variant {variant!r}{hint}.")
    if name == "EMNIST":  # no default
        raise UserError(
            f"torchvision/EMNIST is several sets: name one, torchvision/EMNIST/NAME, of {', '.join(known)}."
        )
    return {}


def _part(name: str, split: str, accepted: set[str]) -> dict[str, Any]:
    if not split:
        return {}
    if name == "Omniglot":
        if split not in ("background", "evaluation"):
            raise UserError(f"torchvision/Omniglot has the splits background and evaluation, not {split!r}.")
        return {"background": split == "background"}
    if name in _PARTS:
        return {_PARTS[name]: split}
    if "train" in accepted:
        if split not in ("train", "test"):
            raise UserError(f"torchvision/{name} has the splits train and test, not {split!r}.")
        return {"train": split == "train"}
    key = next((key for key in ("split", "image_set") if key in accepted), None)
    if key is None:
        raise UserError(
            f"torchvision/{name} has no splits: leave ::{split} out, or part the whole by ::@train and ::@test."
        )
    return {key: split}


def _how_to_fetch(name: str, root: Path, settings: dict[str, Any], accepted: set[str]) -> str:
    if "download" not in accepted:
        return f"torchvision does not fetch it: its documentation of {name} says which files it wants there"
    call = ", ".join(f"{key}={value!r}" for key, value in {**settings, "download": True}.items())
    return f"fetch it once with `from torchvision.datasets import {name}; {name}({str(root)!r}, {call})`"


def labels_of(items: Any, name: str) -> np.ndarray:
    """The label of every item (N,): from the list that the data set keeps, if it says what its items say.

    Raises:
        TypeError: an item has no label, or one that is no number.
    """
    for attribute in _LABELS:
        labels = getattr(items, attribute, None)
        if labels is not None and np.ndim(labels) == 1 and len(labels) == len(items):
            found = np.asarray(labels)
            looked_at = np.linspace(0, len(items) - 1, 3 if _is_plain(items) else _LOOKS).astype(int)
            if found.dtype.kind in "iuf" and all(
                _says(items, index, found[index]) for index in set(looked_at.tolist())
            ):
                return found
    samples = getattr(items, "samples", None) or getattr(items, "imgs", None)
    if samples and _is_plain(items):
        return np.array([label for _, label in samples], dtype=np.int64)
    with progress(f"reading the labels of {name}", total=len(items)) as advance:
        found = np.empty(len(items))
        for index in range(len(items)):
            found[index] = _label(items[index])
            advance(1)
    return found


def _is_plain(items: Any) -> bool:
    """Whether items are made by torchvision's own code, of the labels that it keeps."""
    code = getattr(getattr(type(items), "__getitem__", None), "__module__", None) or ""
    return code.startswith("torchvision.") and getattr(items, "target_transform", None) is None


def _says(items: Any, index: int, label: Any) -> bool:
    """Whether an item has this label, as far as it can be read."""
    try:
        return _label(items[index]) == float(label)
    except OSError:  # a broken image is told where images are read
        return True


def _label(item: Any) -> float:
    return float(item[1])


class EncodedStore(Store):
    """The encoded images of timm's reader for Hugging Face data sets."""

    def __init__(self, reader: Any) -> None:
        super().__init__()
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int) -> bytes:
        """The encoded image."""
        with self.reader[index][0] as file:
            return file.read()


def open_timm(source: str, root: Path | None, split: str) -> ImageDataset:
    """A set that timm's ``create_dataset`` reads: ``hfds/NAME``, ``wds/NAME`` or ``tfds/NAME``.

    The library behind it decides where the data is and whether it is fetched. Streams (wds, tfds) are read once, each
    image kept without loss in a temporary folder, so that every sample has a fixed place: for sets of evaluation size.

    Raises:
        MissingPackageError: the library behind it is not installed.
        UserError: it cannot open the set.
    """
    kind = source.partition("/")[0]
    if importlib.util.find_spec(_MODULES[kind]) is None:
        raise MissingPackageError(f"{source} needs the package {_PACKAGES[kind]}: pip install {_PACKAGES[kind]}.")
    from timm.data import create_dataset

    where = f"{source}::{split}" if split else source
    try:
        items = create_dataset(source, root=None if root is None else str(root), split=split or "train")
    except Exception as error:  # three libraries with an error of their own each
        raise UserError(f"{where} cannot be opened ({reason(error)}).") from error
    if kind == "hfds":
        targets, classes = list(items.reader.iter_targets()), items.reader.class_to_idx
        store: Store = EncodedStore(items.reader)
    else:
        store, targets = keep_images(items, where)
        classes = getattr(items.reader, "class_to_idx", None)
    class_names = sorted(classes, key=classes.get) if classes else None
    ids = [f"{split or 'train'}/{index:06d}" for index in range(len(targets))]
    return ImageDataset(store, name=where, ids=ids, targets=np.array(targets), class_names=class_names)


class _KeptStore(FileStore):
    """Files in a temporary folder that lives as long as the store does."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], names: list[str]) -> None:
        super().__init__(folder.name, names)
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        # A worker reads the folder, and must not remove it when it ends.
        return {key: value for key, value in super().__getstate__().items() if key != "folder"}


def keep_images(stream: Any, name: str) -> tuple[Store, list[float]]:
    """Read a stream of (image, label) once, each image kept without loss in a temporary folder."""
    folder = tempfile.TemporaryDirectory(prefix="ood_nc-")
    names: list[str] = []
    targets: list[float] = []
    with progress(f"reading {name}", total=len(stream) if hasattr(stream, "__len__") else None) as advance:
        for item in stream:
            names.append(f"{len(names):08d}.png")
            to_rgb(WrappedStore([item]).image(0)).save(Path(folder.name) / names[-1], compress_level=1)
            targets.append(_label(item))
            advance(1)
    return _KeptStore(folder, names), targets
