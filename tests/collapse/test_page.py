"""The page on collapse runs, its statements hold (it asserts them), and the page in docs/ is the one it writes."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "collapse.py"


def headings(page: Path) -> list[str]:
    return [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")]


def test_the_page_runs_and_is_the_one_in_docs(tmp_path: Path) -> None:
    runpy.run_path(str(SCRIPT))["main"](tmp_path)
    page = tmp_path / "collapse.md"
    assert headings(page) == headings(SCRIPT.parent / "collapse.md")
    assert len(headings(page)) == 9
    for picture in ("nc1", "nc2", "gnc"):
        svg = (tmp_path / "collapse" / f"{picture}.svg").read_text(encoding="utf-8")
        assert svg.count("<circle") >= 100
        assert len(svg) < 60_000
        assert (SCRIPT.parent / "collapse" / f"{picture}.svg").is_file()
