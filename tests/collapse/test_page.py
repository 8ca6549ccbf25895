"""The page on collapse runs, its statements hold (it asserts them), and the page in docs/ is the one it writes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from ood_nc.collapse import METRICS

SCRIPT = Path(__file__).parents[2] / "docs" / "collapse.py"
PICTURES = ("nc1", "nc2", "nc4", "nc5", "gnc", "imbalance", "rank", "entropy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as where the script itself is run
        runpy.run_path(str(SCRIPT))["main"](folder)
    return folder


def words(page: Path) -> str:
    """The text without its numbers, whose last digit may differ from one machine to another."""
    return re.sub(r"-?\d+(\.\d+)?(e[+-]\d+)?", "#", page.read_text(encoding="utf-8"))


def test_the_page_in_docs_is_the_one_the_script_writes(folder: Path) -> None:
    assert words(folder / "collapse.md") == words(SCRIPT.parent / "collapse.md")


def test_every_metric_is_derived_before_the_table(folder: Path) -> None:
    prose = (folder / "collapse.md").read_text(encoding="utf-8").partition("## What each metric needs")[0]
    assert [name for name in METRICS if f"`{name}`" not in prose] == []


def test_every_part_on_metrics_has_a_picture_and_says_when_it_misleads(folder: Path) -> None:
    parts = (folder / "collapse.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(parts) == len(PICTURES) + 2
    for part, picture in zip(parts, PICTURES, strict=False):
        assert f"](collapse/{picture}.svg)" in part
        assert re.search(r"\*\*When (it misleads|they mislead)\.\*\*", part)


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_show_every_sample_and_stay_small(folder: Path, picture: str) -> None:
    svg = (folder / "collapse" / f"{picture}.svg").read_text(encoding="utf-8")
    assert svg.count("<circle") >= 100
    assert "nan" not in svg
    assert len(svg) < 120_000
    assert (SCRIPT.parent / "collapse" / f"{picture}.svg").is_file()
