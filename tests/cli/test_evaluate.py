from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from ood_nc.cli import main
from ood_nc.evaluation import Results
from ood_nc.files import write_lock


def write_features(path: Path) -> Path:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    arrays = {"ood/noise/encoder": generator.normal(size=(30, 4)), "near/close/encoder": generator.normal(size=(30, 4))}
    for name in ("id_train", "id_test"):
        arrays |= {
            f"{name}/encoder": np.eye(4)[labels] + 0.1 * generator.normal(size=(60, 4)),
            f"{name}/labels": labels,
        }
    np.savez(path, **arrays)
    return path


def test_features_need_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_features(tmp_path / "found.npz")
    words = ["evaluate", "--features", str(path), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    assert main([*words, "--detectors", "knn", "--bootstrap", "0"]) == 0
    assert "0." in capsys.readouterr().out
    found = Results.load(tmp_path / "runs" / "evaluate-found")
    groups = {row["dataset"]: row["group"] for row in found.select(method="knn", metric="auroc", tap="encoder")}
    assert (groups["noise"], groups["close"]) == ("far", "near")
    assert main([*words, "--experiment", "named", "--detectors", "knn", "--bootstrap", "0", "--quiet"]) == 0
    assert (tmp_path / "runs" / "named" / "results.parquet").exists()


@pytest.mark.parametrize("there", ["metrics.jsonl", "checkpoints", "a training that began at this moment"])
def test_the_directory_of_a_run_is_no_place_for_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    run = tmp_path / "runs" / "trial"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("its own")
    path = write_features(tmp_path / "found.npz")
    with ExitStack() as training:
        if there == "metrics.jsonl":
            (run / there).touch()
        elif there == "checkpoints":
            (run / there).mkdir()
        else:
            training.enter_context(write_lock(run))
        words = ["evaluate", "--features", str(path), "--output", str(run.parent), "--experiment", "trial"]
        assert main(words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and ("choose another" in error)
    assert (run / "config.yaml").read_text() == "its own" and not (run / "results.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "resnet18"], "leave --model and --id out"),
        (["--id", "somewhere"], "leave --model and --id out"),
        (["--detectors", "odin"], "needs the network"),
    ],
)
def test_what_does_not_go_with_features_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    path = write_features(tmp_path / "found.npz")
    assert main(["evaluate", "--features", str(path), "--output", str(tmp_path / "runs"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert main(["evaluate", "runs/none", "--features", str(path)]) == 2
