"""Fixtures every room uses."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _shared_data() -> Path | None:
    named = os.environ.get("OOD_NC_TEST_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in [Path(named)] if named else [beside]:
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("no real data: set OOD_NC_TEST_DATA to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def _no_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach a tracking service."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test sees the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _heard() -> None:
    """A command that ran with --quiet before leaves no test deaf to warnings."""
    logging.getLogger("ood_nc").setLevel(logging.NOTSET)
