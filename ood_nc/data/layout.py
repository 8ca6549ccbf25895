"""Class folders or a flat folder: how the files of a folder or an archive become samples and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ood_nc.data.folders import is_hidden, walk
from ood_nc.data.names import class_name, printable
from ood_nc.data.pixels import image_suffixes
from ood_nc.errors import UserError, nearest

EXPECTED = "one folder per class (CLASS/IMAGE.jpg), or a flat folder of images"
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})


class NoImagesError(UserError):
    """The place is there, but holds no images.

    Example:
        >>> read_layout(["notes.txt"], [], "photos")
        Traceback (most recent call last):
        ood_nc.data.layout.NoImagesError: No images in photos: expected one folder per class ...
    """


@dataclass(frozen=True)
class Layout:
    """Samples in order, their classes, and what was left out."""

    names: tuple[str, ...]
    targets: np.ndarray
    class_names: tuple[str, ...] | None
    passed_over: tuple[str, ...]
    notes: tuple[str, ...]


def read_folder(root: Path, where: str, inner: str = "") -> Layout:
    """The samples and classes of a folder, by `read_layout`.

    Raises:
        UserError: a folder cannot be read, and what `read_layout` raises.
    """
    files: list[str] = []
    folders: list[str] = []
    second_names: dict[str, str] = {}
    for path, is_folder, same_as, error in walk(str(root)):
        if error is not None:
            raise UserError(f"Cannot read the folder {printable(str(root / path))}: {error.strerror}.")
        (folders if is_folder else files).append(path)
        if same_as:
            second_names[path] = same_as
    return read_layout(files, folders, where, inner, second_names)


def read_layout(
    files: Iterable[str],
    folders: Iterable[str],
    where: str,
    inner: str = "",
    second_names: Mapping[str, str] | None = None,
) -> Layout:
    """Find the samples and classes among the entries of a folder or an archive.

    Folders directly below the base are the classes, in sorted order; an empty one keeps its place. Images directly in
    the base make it a flat, unlabelled set, at any depth. The base is ``inner``, or the top. A folder that is alone and
    leads to several folders is passed through, as archives have one; where it leads to images only, it is the one
    class, whatever lies below it. Two folders or more that are called as splits are (train, Test) are splits, whatever
    lies beside them. ``FOLDER::.`` passes through none and knows no splits.

    Two folders whose names are one name in Unicode's composed form are one class; names that differ in case alone are
    two. Both are noted, and so are folders that are there under two names.

    Args:
        files: POSIX paths relative to the source.
        folders: the same for folders, so that empty ones are known.
        where: the source, for messages.
        inner: the sub-folder to read, e.g. a split; ``.`` at its end takes it as it is.
        second_names: folders that are links to another, with the path of that other.

    Raises:
        NoImagesError: no images.
        UserError: no such sub-folder, or a choice between splits to be made.
    """
    visible, hidden_files = _without_hidden(files)
    visible_folders, hidden_folders = _without_hidden(folders)
    suffixes = image_suffixes()
    images = [name for name in visible if suffix_of(name) in suffixes]
    base = _base(images, visible_folders, where, inner)
    start = len(base)
    names = tuple(sorted(name for name in images if name.startswith(base)))
    if not names:
        raise NoImagesError(f"No images in {where}: expected {EXPECTED}.")
    hidden = sorted(name for name in hidden_files | hidden_folders if name.startswith(base))
    passed_over = tuple(sorted(name for name in visible if name.startswith(base) and suffix_of(name) not in suffixes))
    notes = _notes(base, inner, hidden, passed_over, second_names or {})
    loose = [name for name in names if "/" not in name[start:]]
    if loose:
        if len(loose) < len(names):
            beside = f"{len(loose)} images lie beside its folders (first: {loose[0]})"
            notes.append(f"{beside}, so all {len(names)} are read as one set without labels")
        targets, classes = np.full(len(names), -1, dtype=np.int64), None
    else:
        inside = [name for name in visible_folders if name.startswith(base) and name != base[:-1]]
        tops = sorted({name[start:].split("/", 1)[0] for name in (*names, *inside)})
        classes = tuple(sorted({class_name(top) for top in tops}))
        notes += _alike(tops, classes)
        position = {top: classes.index(class_name(top)) for top in tops}
        targets = np.array([position[name[start:].split("/", 1)[0]] for name in names], dtype=np.int64)
    return Layout(names, targets, classes, passed_over, tuple(map(printable, notes)))


def _base(images: Sequence[str], folders: Sequence[str], where: str, inner: str) -> str:
    """The prefix below which classes are read, with its slash."""
    below = _Tops(images, folders)
    exact = inner == "." or inner.endswith("/.")
    given = inner.removesuffix(".").rstrip("/") if exact else inner
    base = _find_inner(below, where, given) if given else ""
    if exact:
        return base
    end = base
    while True:
        loose, tops = below(end)
        if loose or len(tops) != 1:
            break
        end += f"{next(iter(tops))}/"
    if not loose and tops:
        base = end
    else:
        # Folders in a row that end in images: the first is the class, but never a split.
        parts = end[len(base) :].split("/")
        splits = [place for place, part in enumerate(parts) if _is_split(part)]
        base += "".join(f"{part}/" for part in parts[: splits[-1] + 1]) if splits else ""
        loose, tops = below(base)
    named = sorted(filter(_is_split, tops))
    if not loose and len(named) > 1:
        inside = f"{where}{'/' if '::' in where else '::'}"
        others = sorted(tops - {*named})
        classes = f" ({inside}. takes every folder for a class, {others[0]} too)" if others else ""
        raise UserError(f"{where} holds the splits {', '.join(named)}: choose one, e.g. {inside}{named[-1]}{classes}.")
    return base


def _is_split(folder: str) -> bool:
    return folder.casefold() in _SPLITS


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


def _notes(
    base: str, inner: str, hidden: Sequence[str], passed_over: Sequence[str], second_names: Mapping[str, str]
) -> list[str]:
    notes = []
    if base and base.rstrip("/") != inner.removesuffix(".").strip("/"):
        notes.append(f"read from inside {base}")
    if hidden:
        entries = "1 hidden entry" if len(hidden) == 1 else f"{len(hidden)} hidden entries"
        notes.append(f"{entries} ignored ({hidden[0]}{', ...' if len(hidden) > 1 else ''})")
    if passed_over:
        kinds = Counter(suffix_of(name) or "no suffix" for name in passed_over)
        most = ", ".join(kind for kind, _ in kinds.most_common(3))
        count = len(passed_over)
        files = "1 file that is no image" if count == 1 else f"{count} files that are no images"
        notes.append(f"{files} ignored ({most}; {'first: ' if count > 1 else ''}{passed_over[0]})")
    doubled = [pair for pair in second_names.items() if all(f"{name}/".startswith(base) for name in pair)]
    if doubled:
        name, other = doubled[0]
        more = f" (and {len(doubled) - 1} more)" if len(doubled) > 1 else ""
        notes.append(f"{name} is the folder {other} again{more}: its images are there under both names")
    return notes


def _alike(tops: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Notes on classes whose names differ in nothing that a reader sees, or in case alone."""
    forms = Counter(map(class_name, tops))
    notes = [
        f"{count} folders are named {name!r} in different Unicode forms: one class"
        for name, count in forms.items()
        if count > 1
    ]
    by_case: dict[str, list[str]] = {}
    for name in classes:
        by_case.setdefault(name.casefold(), []).append(name)
    notes += [
        f"classes {' and '.join(map(repr, names))} differ in case alone: they are kept apart"
        for names in by_case.values()
        if len(names) > 1
    ]
    return notes


def _without_hidden(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """The visible names, and the topmost hidden entry of every other."""
    visible, hidden = [], set()
    for name in names:
        if name[:1] != "." and "/." not in name and "__MACOSX" not in name:
            visible.append(name)
            continue
        parts = name.split("/")
        first = next((index for index, part in enumerate(parts) if is_hidden(part)), None)
        if first is None:
            visible.append(name)
        else:
            hidden.add("/".join(parts[: first + 1]))
    return visible, hidden


def suffix_of(name: str) -> str:
    """The suffix of a POSIX path, in lower case."""
    return PurePosixPath(name).suffix.lower() if "." in name else ""
