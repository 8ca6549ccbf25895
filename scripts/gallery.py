"""Puts a report, or a page of ood-nc explain, into the gallery of the site: python scripts/gallery.py REPORT.html NAME

The library that draws figures, most of a report's size, is left out: the site has one for all its pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import plotly.offline

FOLDER = Path(__file__).parent.parent / "docs" / "gallery"
LIBRARY = '<script src="../assets/plotly.min.js"></script>'
LARGEST = 1_500_000


def slim(page: str) -> str:
    """The page with the site's library in place of its own."""
    inline = f"<script>{plotly.offline.get_plotlyjs()}</script>"
    if inline not in page and "Plotly" in page:
        raise SystemExit("The page holds another plotly than the one that is installed: write it anew.")
    return page.replace(inline, LIBRARY)


def main(source: Path, name: str) -> None:
    """Write the page."""
    page = slim(source.read_text(encoding="utf-8"))
    if len(page.encode()) > LARGEST:
        raise SystemExit(f"{source} has {len(page.encode()):,} bytes without the library; at most {LARGEST:,} go in.")
    (FOLDER / f"{name}.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
