"""The page of detectors names every one of them, and what it measured is in range."""

from __future__ import annotations

import re
from pathlib import Path

from ood_nc.detection import list_detectors

PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by their first cell."""
    part = PAGE.read_text(encoding="utf-8").split(f"## {heading}", 1)[1]
    table = part[part.index("|---") :].split("\n\n", 1)[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]
    return {line[0].strip("` "): line[1:] for line in cells}


def test_the_catalogue_holds_every_detector():
    assert sorted(rows("Catalogue")) == list_detectors()


def test_every_detector_is_measured():
    measured = rows("Measured: CIFAR-10, ResNet-20")
    assert sorted(measured) == list_detectors()
    for name, cells in measured.items():
        numbers = [float(cell) for cell in cells if re.fullmatch(r"[\d.]+", cell)]
        assert len(numbers) == 8, name
        assert all(0 <= number <= 100 for number in numbers)
    assert float(measured["knn"][5]) > 60
