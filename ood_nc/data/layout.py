"""Class folders or a flat folder: how the files of a folder or an archive become samples and classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ood_nc.errors import UserError, nearest

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
EXPECTED = "one folder per class (CLASS/IMAGE.jpg), or a flat folder of images"
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})


class NoImagesError(UserError):
    """The place is there, but holds no images."""


@dataclass(frozen=True)
class Layout:
    """Samples in order, their classes, and what was left out."""

    names: tuple[str, ...]
    targets: np.ndarray
    class_names: tuple[str, ...] | None
    hidden: tuple[str, ...]
    notes: tuple[str, ...]


def walk(root: Path) -> tuple[list[str], list[str]]:
    """Every file and folder below ``root``, as sorted POSIX paths relative to it; hidden folders are not entered."""
    files: list[str] = []
    folders: list[str] = []
    entered: set[tuple[int, int]] = set()

    def enter(folder: str, prefix: str) -> None:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:  # a link back to a folder above would never end
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(prefix + entry.name)
                    if not _is_hidden(entry.name):
                        enter(entry.path, f"{prefix}{entry.name}/")
                else:
                    files.append(prefix + entry.name)

    try:
        enter(str(root), "")
    except OSError as error:
        raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error
    return sorted(files), sorted(folders)


def read_layout(files: Iterable[str], folders: Iterable[str], where: str, inner: str = "") -> Layout:
    """Find the samples and classes among the entries of a folder or an archive.

    Folders directly below the base are the classes, in sorted order; an empty one keeps its place. Images directly in
    the base make it a flat, unlabelled set, at any depth. The base is ``inner``, or the top; folders that hold nothing
    but one folder of folders are passed through.

    Args:
        files: POSIX paths relative to the source.
        folders: the same for folders, so that empty ones are known.
        where: the source, for messages.
        inner: the sub-folder to read, e.g. a split.

    Raises:
        NoImagesError: no images.
        UserError: no such sub-folder, or a choice between splits to be made.
    """
    visible, hidden_files = _without_hidden(files)
    visible_folders, hidden_folders = _without_hidden(folders)
    images = [name for name in visible if _suffix(name) in IMAGE_SUFFIXES]
    base = _base(images, visible_folders, where, inner)
    start = len(base)
    names = tuple(sorted(name for name in images if name.startswith(base)))
    if not names:
        raise NoImagesError(f"No images in {where}: expected {EXPECTED}.")
    hidden = tuple(sorted(name for name in hidden_files | hidden_folders if name.startswith(base)))
    loose = [name for name in names if "/" not in name[start:]]
    classes = sorted(
        {name[start:].split("/", 1)[0] for name in names if "/" in name[start:]}
        | {name[start:].split("/", 1)[0] for name in visible_folders if name.startswith(base) and name != base[:-1]}
    )
    notes = _notes(base, inner, hidden, [name for name in visible if name.startswith(base)], len(names))
    if loose:
        if len(loose) < len(names):
            beside = f"{len(loose)} images lie beside its folders (first: {loose[0]})"
            notes.append(f"{beside}, so all {len(names)} are read as one set without labels")
        return Layout(names, np.full(len(names), -1, dtype=np.int64), None, hidden, tuple(notes))
    position = {name: index for index, name in enumerate(classes)}
    targets = np.array([position[name[start:].split("/", 1)[0]] for name in names], dtype=np.int64)
    return Layout(names, targets, tuple(classes), hidden, tuple(notes))


def _base(images: Sequence[str], folders: Sequence[str], where: str, inner: str) -> str:
    """The prefix below which classes are read, with its slash."""
    below = _Tops(images, folders)
    base = _find_inner(below, where, inner) if inner else ""
    while True:
        loose, tops = below(base)
        if loose or len(tops) != 1:
            break
        (top,) = tops
        loose_inside, tops_inside = below(f"{base}{top}/")
        if loose_inside or not tops_inside:
            break
        base = f"{base}{top}/"
    if not loose and len(tops) > 1 and tops <= _SPLITS:
        example = f"{where}{'/' if '::' in where else '::'}{sorted(tops)[-1]}"
        raise UserError(f"{where} holds the splits {', '.join(sorted(tops))}: choose one, e.g. {example}.")
    return base


def _find_inner(below: _Tops, where: str, inner: str) -> str:
    base = inner.strip("/") + "/"
    if below.has(base):
        return base
    _, tops = below("")
    if len(tops) == 1:
        (top,) = tops
        if below.has(f"{top}/{base}"):
            return f"{top}/{base}"
        _, tops = below(f"{top}/")
    there = f" It holds {', '.join(sorted(tops)[:8])}." if tops else ""
    raise UserError(f"No folder {inner!r} in {where.rsplit('::', 1)[0]}.{nearest(inner, tops) or there}")


class _Tops:
    """What lies directly below a prefix: how many images, and which folders."""

    def __init__(self, images: Sequence[str], folders: Sequence[str]) -> None:
        self._loose = Counter(name.rpartition("/")[0] for name in images)
        self._folders: dict[str, set[str]] = {}
        for folder in {*folders, *self._loose}:
            while folder:
                folder, _, name = folder.rpartition("/")
                self._folders.setdefault(folder, set()).add(name)

    def __call__(self, prefix: str) -> tuple[int, set[str]]:
        key = prefix.rstrip("/")
        return self._loose[key], self._folders.get(key, set())

    def has(self, prefix: str) -> bool:
        """Whether this folder is there."""
        parent, _, name = prefix.rstrip("/").rpartition("/")
        return name in self._folders.get(parent, set())


def _notes(base: str, inner: str, hidden: Sequence[str], visible: Sequence[str], images: int) -> list[str]:
    notes = []
    if base and base.rstrip("/") != inner.strip("/"):
        notes.append(f"read from inside {base}")
    if hidden:
        entries = "1 hidden entry" if len(hidden) == 1 else f"{len(hidden)} hidden entries"
        notes.append(f"{entries} ignored ({hidden[0]}{', ...' if len(hidden) > 1 else ''})")
    if len(visible) > images:
        kinds = Counter(_suffix(name) or "no suffix" for name in visible if _suffix(name) not in IMAGE_SUFFIXES)
        most = ", ".join(kind for kind, _ in kinds.most_common(3))
        files = (
            "1 file that is no image"
            if len(visible) - images == 1
            else f"{len(visible) - images} files that are no images"
        )
        notes.append(f"{files} ignored ({most})")
    return notes


def _without_hidden(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """The visible names, and the topmost hidden entry of every other."""
    visible, hidden = [], set()
    for name in names:
        if name[:1] != "." and "/." not in name and "__MACOSX" not in name:
            visible.append(name)
            continue
        parts = name.split("/")
        first = next((index for index, part in enumerate(parts) if _is_hidden(part)), None)
        if first is None:
            visible.append(name)
        else:
            hidden.add("/".join(parts[: first + 1]))
    return visible, hidden


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower() if "." in name else ""
