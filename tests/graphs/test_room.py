"""The room as a whole: its examples, its page, and what is said where PyTorch Geometric is not installed."""

from __future__ import annotations

import csv
import doctest
import importlib
import pkgutil
import re
import runpy
import sys
from pathlib import Path

import pytest

import ood_nc.graphs
from ood_nc.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(ood_nc.graphs.__path__)])
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"ood_nc.graphs.{name}")).failed == 0


def test_without_pytorch_geometric_the_command_says_in_a_line_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("ood_nc.graphs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    assert main(["run", "--config", "configs/graphs/cpu-32-layers.yaml", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "ood-nc: Graphs need PyTorch Geometric: pip install 'ood_nc[graphs]'.\n"


@pytest.mark.slow
def test_the_page_is_written_and_has_the_sections_of_the_one_in_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DOCS)  # as where a script is run
    runpy.run_path(str(DOCS / "graphs.py"))["main"](tmp_path, quick=True)
    sections = [re.findall(r"^## .*", (folder / "graphs.md").read_text(), re.MULTILINE) for folder in (tmp_path, DOCS)]
    assert sections[0] == sections[1]
    for picture in re.findall(r"\]\((graphs/.*?\.svg)\)", (DOCS / "graphs.md").read_text()):
        assert (tmp_path / picture).exists() and (DOCS / picture).exists()


@pytest.mark.slow
def test_the_table_of_other_settings_has_every_run_once(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "graph_settings.py"))
    small = {"graphs.layers": 3, "graphs.train_graphs": 2, "graphs.test_graphs": 2, "train.epochs": 1}
    tables = []
    for name in ("first.csv", "again.csv"):
        script["main"](tmp_path, tmp_path / name, **small)
        tables.append((tmp_path / name).read_text())
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert {row["setting"] for row in rows} == set(script["RUNS"])
    assert len(rows) == len(script["RUNS"]) * (7 + 2 * 3)  # overlaps of seven methods, two taps of three layers
    with open(DOCS / "graphs" / "settings.csv", newline="", encoding="utf-8") as file:
        assert {row["setting"] for row in csv.DictReader(file)} == set(script["RUNS"])
