"""Runs and a detector that tests of several commands read; each is made once a process."""

from __future__ import annotations

from collections.abc import Callable
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


@pytest.fixture
def refused(
    trained_run: Path,
    detector_file: Path,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[list[str]], str]:
    """Runs words that must end in exit code 2, one line and no file ``x``, and gives the line.

    RUN, FILE and IMAGES stand for a run, a detector and a folder.
    """
    known = {"RUN": str(trained_run), "FILE": str(detector_file), "IMAGES": str(digits)}

    def run(words: list[str]) -> str:
        monkeypatch.chdir(tmp_path)
        assert main([known.get(word, word) for word in words]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 or "--quiet" in words
        assert not (tmp_path / "x").exists()
        return error

    return run
