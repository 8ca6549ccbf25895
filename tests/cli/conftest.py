"""Runs and a detector that tests of several commands read; each is made once a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ood_nc.cli import main
from ood_nc.data import open_dataset
from tests.helpers.cli import SMALL, SMALL_EVALUATION


@pytest.fixture(scope="session")
def evaluated_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluated baseline and controlled run."""
    output = tmp_path_factory.mktemp("runs")
    baseline = ["--projector", "none", "--entropy-weight", "0"]
    where = ["--output", str(output), "--quiet"]
    assert main(["run", *SMALL_EVALUATION, *where, "--experiment", "controlled"]) == 0
    assert main(["run", *SMALL_EVALUATION, *where, "--experiment", "baseline", *baseline]) == 0
    return output


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 40 images of validation."""
    output = tmp_path_factory.mktemp("runs")
    where = ["--output", str(output), "--experiment", "run", "--quiet"]
    assert main(["train", *SMALL, *where, "--data.val-fraction", "0.4"]) == 0
    return output / "run"


@pytest.fixture(scope="session")
def detector_file(trained_run: Path) -> Path:
    """A detector that was fitted on it."""
    path = trained_run.parent / "d.safetensors"
    words = ["fit", str(trained_run), "--detector", "mahalanobis", "--tap", "encoder", "--tpr", "0.9", "-o", str(path)]
    assert main([*words, "--quiet"]) == 0
    return path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder of five images."""
    root = tmp_path / "images"
    root.mkdir()
    dataset = open_dataset("bundled/digits-near")
    for index in range(5):
        dataset.load(index).save(root / f"{index}.png")
    return root
