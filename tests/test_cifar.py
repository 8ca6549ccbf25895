"""The page of the CIFAR-10 networks says what the kept measurements say."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from statistics import fmean
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cifar() -> ModuleType:
    specification = importlib.util.spec_from_file_location("cifar", ROOT / "scripts" / "cifar.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_makes(cifar: ModuleType) -> None:
    assert (ROOT / "docs" / "cifar.md").read_text(encoding="utf-8") == cifar.page()


def test_its_means_are_those_of_the_files(cifar: ModuleType) -> None:
    errors, areas = [], []
    for seed in range(5):
        path = ROOT / "docs" / "claim" / "results" / f"cifar-both-seed{seed}.csv"
        with path.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if (row["protocol"], row["tap"]) == ("strict", "block4")]
        accuracy = {row["dataset"]: float(row["value"]) for row in rows if row["kind"] == "transfer"}
        folds = sum(accuracy.pop(f"textures (fold {fold})") for fold in range(1, 6)) / 5
        errors.append(100 * (1 - (sum(accuracy.values()) + folds) / 4))
        areas += [float(row["value"]) for row in rows if (row["method"], row["metric"]) == ("knn", "auroc")]
    assert len(accuracy) == 3
    assert len(areas) == 20
    lines = cifar.by_tap([cifar.of_claim("both", seed) for seed in range(5)]).splitlines()
    cells = next(line for line in lines if "block4" in line).strip("| ").split(" | ")
    assert cells[3].startswith(f"{fmean(errors):.1f} ")
    assert cells[4].startswith(f"{100 * fmean(areas):.1f} ")
