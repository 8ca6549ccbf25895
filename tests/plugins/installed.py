"""Installs a package of one file where a test wants it, with the metadata that pip would write."""

from __future__ import annotations

from pathlib import Path


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
