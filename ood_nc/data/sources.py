"""One string names any data set: `open_dataset` finds out what it is and opens it."""

from __future__ import annotations

from pathlib import Path

from ood_nc.data.archives import is_archive, open_archive
from ood_nc.data.bundled import BUNDLED
from ood_nc.data.corruptions import corrupted
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.imglists import LIST_SUFFIXES, open_imglist
from ood_nc.data.layout import EXPECTED, Layout, read_folder, read_layout
from ood_nc.data.numpy_files import open_numpy
from ood_nc.data.registry import SOURCES
from ood_nc.data.splits import limit_per_class, train_and_test
from ood_nc.data.stores import FileStore, Store
from ood_nc.errors import UserError, nearest
from ood_nc.files import expanded

_FORMS = {
    "FOLDER": f"{EXPECTED}; a flat folder has no labels and may be nested",
    "FOLDER::train": "the class folders of one split, FOLDER/train/CLASS/IMAGE.jpg",
    "ARCHIVE[::FOLDER]": ".tar, .tar.gz, .tar.xz, .tar.bz2 or .zip with the same layouts, read in place",
    "FILE.npz[::train]": "x_train, y_train, x_test, y_test, or x, y, or images, labels; .npy: images only",
    "LIST.txt[::FOLDER]": "lines `path label`, paths relative to FOLDER (to the list's own folder when not given)",
    "torchvision/NAME::train": "a data set of torchvision, already fetched into the data root",
    "torchvision/EMNIST/balanced::train": "likewise, of a set that is several (Imagenette/160px, Places365/small, ...)",
    "corrupted/fog-3/SOURCE": "another source, corrupted as in ImageNet-C, or corrupted/mixed/... (needs corrupt-tta)",
    "hfds/NAME::SPLIT": "a Hugging Face data set, by timm (needs datasets)",
    "wds/NAME::SPLIT": "a webdataset, by timm (needs webdataset)",
    "tfds/NAME::SPLIT": "a TensorFlow data set, by timm (needs tensorflow-datasets)",
    "SOURCE::@train, SOURCE::@test": "four fifths and one fifth (stratified, seed 0) of a set that has no split",
}


def open_dataset(
    source: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    max_inflated: int | None = None,
) -> ImageDataset:
    """Open a data set; nothing is copied, extracted or downloaded.

    Args:
        source: what and where, with the split or inner folder after ``::``; `list_datasets` has every form.
        root: folder that relative sources are looked up in; the working folder when not given.
        limit: at most so many images of a class.
        seed: chooses them.
        max_inflated: bytes that a compressed file may inflate to (`ood_nc.data.archives.open_archive`).

    Raises:
        NoImagesError: it is there but holds no images.
        UserError: it is not there or is damaged; one line with the path and what is expected.

    Example:
        >>> open_dataset("bundled/digits-id::test"), len(open_dataset("bundled/digits-id::test", limit=10))
        (ImageDataset('bundled/digits-id::test', 300 images, 5 classes), 50)
    """
    place, inner, share = _parse(source)
    dataset = _open(place, inner, None if root is None else expanded(root), max_inflated)
    if share:
        dataset = train_and_test(dataset)[share == "@test"]
    return dataset if limit is None else limit_per_class(dataset, limit, seed)


def locate(source: str, root: str | Path) -> str:
    """``source`` with its path made relative to ``root`` instead of the working folder; other sources as they are."""
    kind, _, rest = source.partition("/")
    if kind == "corrupted":  # another source's images
        how, slash, other = rest.partition("/")
        return f"{kind}/{how}{slash}{locate(other, root)}" if other else source
    if kind in SOURCES:
        return source
    place, separator, inner = source.partition("::")
    located = str(Path(root) / expanded(place))
    if inner and Path(place).suffix.lower() in LIST_SUFFIXES and not inner.startswith("@"):
        inner = str(Path(root) / expanded(inner))
    return located + separator + inner


def list_datasets() -> dict[str, str]:
    """Every form of source and every bundled set, with what it is.

    Example:
        >>> list_datasets()["bundled/digits-near"]
        'digits 5 and 6, near OOD'
    """
    known = {form.partition("/")[0] for form in (*_FORMS, "bundled/")}
    others = {f"{kind}/NAME::SPLIT": "of another package (`ood-nc list sources`)" for kind in SOURCES.keys() - known}
    return {**_FORMS, **others, **{f"bundled/{name}": text for name, text in BUNDLED.items()}}


def _parse(source: str) -> tuple[str, str, str]:
    """Source, split or inner folder, and the share of it ("@train", "@test" or none)."""
    place, *parts = source.strip().split("::")
    share = parts.pop() if parts and parts[-1] in ("@train", "@test") else ""
    if not place or len(parts) > 1:
        raise UserError(f"Cannot read the data source {source!r}: expected SOURCE or SOURCE::SPLIT.")
    return place, parts[0] if parts else "", share


def _open(place: str, inner: str, root: Path | None, max_inflated: int | None) -> ImageDataset:
    kind, _, rest = place.partition("/")
    if kind in SOURCES:
        return SOURCES[kind](rest, inner, root)
    path = (root or Path()) / expanded(place)
    name = f"{place}::{inner}" if inner else place
    if path.is_dir():
        return _open_folder(path, inner, name)
    if not path.is_file():
        raise UserError(_not_there(path))
    if is_archive(path):
        return _open_archive(path, inner, name, max_inflated)
    if path.suffix.lower() in (".npz", ".npy"):
        return open_numpy(path, inner, name, max_inflated)
    if path.suffix.lower() in LIST_SUFFIXES:
        images = (root or Path()) / expanded(inner) if inner else path.parent
        return open_imglist(path, images, name)
    raise UserError(f"{path} is neither a folder nor an archive, .npz file or image list (`ood-nc list datasets`).")


def _open_corrupted(name: str, split: str, root: Path | None) -> ImageDataset:
    """Another source's images, corrupted as in ImageNet-C: corrupted/fog-3/SOURCE, corrupted/mixed/SOURCE."""
    how, slash, source = name.partition("/")
    if not slash or not source:
        raise UserError(f"Which images? corrupted/{how or 'fog-3'}/SOURCE, e.g. corrupted/fog-3/cifar10::test.")
    corruption, dash, severity = how.partition("-")
    if dash and not severity.isdecimal():
        raise UserError(f"The severity in corrupted/{how} is no number: e.g. corrupted/fog-3/SOURCE.")
    dataset = open_dataset(f"{source}::{split}" if split else source, root=root)
    return corrupted(dataset, corruption, int(severity) if dash else None)


SOURCES.add("corrupted", _open_corrupted)


def _open_folder(path: Path, inner: str, name: str) -> ImageDataset:
    layout = read_folder(path, f"{path}::{inner}" if inner else str(path), inner)
    return _of_layout(FileStore(path, layout.names), name, layout)


def _open_archive(path: Path, inner: str, name: str, max_inflated: int | None) -> ImageDataset:
    archive = open_archive(path, max_inflated)
    layout = read_layout(archive.members, archive.folders, f"{path}::{inner}" if inner else str(path), inner)
    return _of_layout(archive.store(layout.names), name, layout)


def _of_layout(store: Store, name: str, layout: Layout) -> ImageDataset:
    return ImageDataset(
        store,
        name=name,
        ids=layout.names,
        targets=layout.targets,
        class_names=layout.class_names,
        passed_over=layout.passed_over,
        notes=layout.notes,
    )


def _not_there(path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, beside) or f" Expected {EXPECTED}, an archive, an .npz file or an image list."
    return f"No data at {path.absolute()}.{hint}"
