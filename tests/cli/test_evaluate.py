from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ood_nc.cli import main
from ood_nc.evaluation import Results


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
