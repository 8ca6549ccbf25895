"""Installs a package of one file where a test wants it, with the metadata that pip would write."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = sorted(path.parent for path in (Path(__file__).parent / "packages").glob("*/pyproject.toml"))
"""One folder a kind of plug-in: a file, and the pyproject.toml that declares what is in it."""


def install(folder: Path, module: str, source: str, points: dict[str, str]) -> Path:
    """Write ``module``.py and its dist-info into ``folder``, to be put on `sys.path` or PYTHONPATH.

    Args:
        folder: stands for site-packages.
        module: name of the module, and of the distribution.
        source: the file's text.
        points: entry-point group to ``name = module:object`` lines.
    """
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    sections = "\n".join(f"[{group}]\n{lines}\n" for group, lines in points.items())
    (metadata / "entry_points.txt").write_text(sections, encoding="utf-8")
    return folder


def install_all(folder: Path) -> Path:
    """Install every package of ``PACKAGES`` into ``folder``."""
    for package in PACKAGES:
        project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        points = {
            group: "\n".join(f"{name} = {value}" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        }
        install(folder, project["name"], (package / f"{package.name}.py").read_text(encoding="utf-8"), points)
    return folder
