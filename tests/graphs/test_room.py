"""The room as a whole: its examples, and what is said where PyTorch Geometric is not installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

import ood_nc.graphs
from ood_nc.cli import main


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
