"""The short version of scripts/attacks/threads.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

PATH = Path(__file__).parent.parent / "scripts" / "attacks" / "threads.py"


@pytest.fixture(scope="module")
def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attack_threads", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_caller_gets_anothers_values(attack: ModuleType) -> None:
    for name, (call, inputs) in attack.subjects().items():
        assert attack.differing(call, inputs, threads=4, calls=24) == (0, []), name


def test_the_attack_finds_a_call_that_shares_its_values(attack: ModuleType) -> None:
    shared = {}

    def call(batch: torch.Tensor) -> list[torch.Tensor]:
        shared["value"] = batch
        for _ in range(200):
            torch.zeros(1)
        return [shared["value"]]

    wrong, errors = attack.differing(call, [torch.full((1,), float(n)) for n in range(8)], threads=4, calls=400)
    assert wrong > 0 and not errors
