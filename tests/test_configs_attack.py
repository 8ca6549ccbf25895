"""The short version of scripts/attacks/configs.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ATTACKS = Path(__file__).parent.parent / "scripts" / "attacks"


def attack(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"attack_{name}", ATTACKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_mutation_of_a_configuration_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = attack("configs")
    monkeypatch.setattr("ood_nc.training.train", lambda config, **_: config.run_directory)
    assert module.attack(40, seed=1) == []


@pytest.mark.slow
def test_no_mutation_of_a_configuration_is_a_fault_when_it_is_trained() -> None:
    assert attack("configs").attack(20, seed=2) == []
