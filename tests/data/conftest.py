"""Small images, folders and archives that the tests of this room share."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(seed: int, size: int = 8, kind: str = "png") -> bytes:
    """A random image, as a file's bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def put(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files below ``root``; a name that ends in a slash makes an empty folder."""
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def pack(path: Path, files: Mapping[str, bytes], **settings: object) -> Path:
    """Write the files as an archive of the kind that the name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", **settings) as target:  # type: ignore[arg-type]
            for name, content in files.items():
                target.writestr(name, content)
        return path
    mode = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode, **settings) as target:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size = len(content)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            target.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def animals() -> dict[str, bytes]:
    """Two splits of two classes, with the clutter that real folders and archives have."""
    files = {"data/.DS_Store": b"finder", "__MACOSX/data/train/cat/._0.png": b"fork", "data/README.md": b"read me"}
    seed = 0
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                files[f"data/{split}/{name}/{index}.png"] = encoded(seed := seed + 1)
    return files


Maker = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Maker:
    """Write files below a new folder and return it."""
    return lambda files: put(tmp_path / "images", files)
