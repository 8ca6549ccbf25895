"""Reports of the example runs, written once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report import write_comparison, write_report
from tests.helpers.report_pages import Element, read_page
from tests.helpers.report_runs import build_comparison


@dataclass(frozen=True)
class Written:
    """A report, the documents it was made from, and its parsed page."""

    path: Path
    page: Element
    documents: list[dict[str, Any]]
    comparison: dict[str, Any]


def load(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], dict[str, Any]]:
    return build_comparison(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def one(example: tuple[list[Path], dict[str, Any]]) -> Written:
    path = write_report(example[0][1])
    return Written(path, read_page(path), [load(example[0][1])], {})


@pytest.fixture(scope="session")
def two(example: tuple[list[Path], dict[str, Any]]) -> Written:
    runs, comparison = example
    path = write_comparison(runs, runs[0].parent / "comparison.html", comparison)
    return Written(path, read_page(path), [load(run) for run in runs], comparison)
