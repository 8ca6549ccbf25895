"""The main job through the command line, small: two runs on the bundled digits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ood_nc.cli import main
from ood_nc.config import load

SMALL = [
    *("--config", "quickstart", "--model", "test_resnet", "--img-size", "32", "--epochs", "1", "--limit", "20"),
    *("--eval-limit", "60", "--bootstrap", "50", "--taps", "layer3,encoder,projector", "-j", "0", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluated baseline and controlled run."""
    output = tmp_path_factory.mktemp("runs")
    baseline = ["--projector", "none", "--entropy-weight", "0"]
    assert main(["run", *SMALL, "--output", str(output), "--experiment", "controlled", "--quiet"]) == 0
    assert main(["run", *SMALL, "--output", str(output), "--experiment", "baseline", *baseline, "--quiet"]) == 0
    return output


def test_a_run_directory_holds_what_it_promises(runs: Path) -> None:
    directory = runs / "controlled"
    names = {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "features", "results.parquet"}
    assert names | {"results.json", "report.html", "scores.parquet"} <= {path.name for path in directory.iterdir()}
    table = pq.read_table(directory / "results.parquet")
    assert {"collapse", "detection", "transfer", "accuracy"} <= set(table["kind"].to_pylist())
    assert {"layer3", "encoder", "projector"} <= set(table["tap"].to_pylist())
    document = json.loads((directory / "results.json").read_text())
    assert document["schema"] == 1
    assert document["relations"]
    assert {choice["task"] for choice in document["choices"]} == {"detection", "transfer"}


def test_evaluating_again_gives_the_same_numbers(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = runs / "controlled"
    before = pq.read_table(directory / "results.parquet").to_pylist()
    assert main(["evaluate", str(directory), "--format", "openood"]) == 0
    after = pq.read_table(directory / "results.parquet").to_pylist()
    timed = "seconds"
    assert [row for row in before if row["metric"] != timed] == [row for row in after if row["metric"] != timed]
    assert "FPR@95" in (directory / "results-openood.csv").read_text()
    assert "projector" in capsys.readouterr().out


def test_the_tracker_gets_the_values_of_the_long_table(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ood_nc.tracking import wandb_log

    summaries: list[dict[str, float]] = []

    class Recorder:
        def __init__(self, directory: Path, **_: object) -> None:
            assert directory == runs / "baseline"

        def finish(self, summary: dict[str, float]) -> None:
            summaries.append(summary)

    monkeypatch.setattr(wandb_log, "WandbLog", Recorder)
    assert main(["evaluate", str(runs / "baseline"), "--log-wandb", "--quiet"]) == 0
    rows = json.loads((runs / "baseline" / "results.json").read_text())["rows"]
    (row,) = (r for r in rows if r["kind"] == "accuracy" and r["method"] == "head" and r["metric"] == "accuracy")
    key = "/".join(row[part] for part in ("kind", "tap", "dataset", "group", "method", "metric") if row[part])
    assert summaries[0][key] == row["value"]
    assert len(summaries[0]) == sum(r["value"] is not None for r in rows)


def test_the_report_and_the_comparison(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = runs / "controlled" / "report.html"
    report.unlink()
    assert main(["report", str(runs / "controlled")]) == 0
    assert report.stat().st_size > 1e6
    assert main(["compare", str(runs / "baseline"), str(runs / "controlled"), "-o", str(runs / "both.html")]) == 0
    said = capsys.readouterr().out
    assert "controlled" in said
    assert "baseline" in said
    assert (runs / "both.html").exists()
    verdict = json.loads((runs / "comparison.json").read_text())["verdict"]
    assert verdict in said


def test_a_run_is_never_overwritten(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (runs / "controlled" / "metrics.jsonl").read_bytes()
    assert main(["train", *SMALL, "--output", str(runs), "--experiment", "controlled"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", *SMALL, "--output", str(runs), "--experiment", "controlled", "--resume"]) == 0
    assert (runs / "controlled" / "metrics.jsonl").read_bytes() == before


def test_a_model_trained_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    generator = torch.Generator().manual_seed(0)
    for name in ("id/cat", "id/dog", "ood"):
        (tmp_path / name).mkdir(parents=True)
        for index in range(40):
            pixels = torch.randint(0, 256, (40, 40, 3), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    (tmp_path / "ood" / "broken.png").write_bytes(b"no image")
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.pth")
    words = ["evaluate", "--model", "test_resnet", "--checkpoint", str(tmp_path / "w.pth"), "--crop-pct", "1"]
    words += ["--id", str(tmp_path / "id"), "--ood", f"noise={tmp_path / 'ood'}", "--output", str(tmp_path / "runs")]
    words += ["--input-size", "3", "32", "32", "--mean", "0.5", "0.5", "0.5", "--std", "0.25"]
    words += ["--bootstrap", "20", "--detectors", "energy,mahalanobis", "-j", "0"]
    assert main(words) == 0
    directory = tmp_path / "runs" / "evaluate-test_resnet"
    identity = json.loads((directory / "results.json").read_text())["identity"]
    assert identity["datasets"]["noise"]["n"] == 41
    assert "broken.png" in json.dumps(identity)
    said = capsys.readouterr().err
    assert (
        "images: 3x32x32" in said and "(as timm's validation script for test_resnet; as set: input_size, mean" in said
    )
    assert main(["report", str(directory)]) == 0
    assert main([*words, "--num-classes", "5"]) == 2
    assert "head.weight" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--data.train", "/nowhere"], "/nowhere"),
        (["--model", "resnet81"], "resnet81"),
        (["--data.train", "{empty}"], "No images in"),
        (["--checkpoint", "{empty}/none.pth"], "none.pth"),
        (["--entropy-weight.layer9", "1"], "layer9"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    changes: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    changes = [word.format(empty=tmp_path / "empty") for word in changes]
    assert main(["train", *SMALL, "--output", str(tmp_path / "runs"), *changes]) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_then_resume_gives_the_weights_of_a_run_that_was_never_stopped(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "ood_nc",
        "train",
        "--config",
        "quickstart",
        "--epochs",
        "4",
        "--output",
        str(tmp_path),
    ]
    words += ["--device", "cpu", "--log-interval", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--experiment", "straight"], check=True, env=environment)
    process = subprocess.Popen(
        [*words, "--experiment", "stopped"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and '"val"' in log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error.splitlines()[-1]
    subprocess.run([*words, "--experiment", "stopped", "--resume"], check=True, env=environment)
    straight = load_file(tmp_path / "straight" / "checkpoints" / "last.safetensors")
    stopped = load_file(tmp_path / "stopped" / "checkpoints" / "last.safetensors")
    assert straight.keys() == stopped.keys()
    for name, value in straight.items():
        assert torch.equal(value, stopped[name]), name


def test_a_resumed_run_brings_its_own_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--output", str(tmp_path / "runs"), "--experiment", "own"]
    assert main(["train", *SMALL, *where, "--lr", "0.003"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^validation accuracy: \d+\.\d%, best in epoch \d of \d$", out, re.M)
    assert f"next: ood-nc evaluate {tmp_path / 'runs' / 'own'}" in out
    epochs = load(tmp_path / "runs" / "own" / "config.yaml").train.epochs
    assert main(["train", *where, "--resume", "--epochs", str(epochs + 1)]) == 0
    assert "the schedule is laid over" in capsys.readouterr().err
    config = load(tmp_path / "runs" / "own" / "config.yaml")
    assert (config.optim.lr, config.train.epochs) == (0.003, epochs + 1)
    assert main(["train", *where, "--resume", "--lr", "0.5"]) == 2
    assert "optim.lr was 0.003" in capsys.readouterr().err
    assert main(["train", "--output", str(tmp_path), "--experiment", "none", "--resume"]) == 2
    assert "There is no run" in capsys.readouterr().err


def test_where_the_epoch_was_chosen_on_the_test_set_nothing_else_is(runs: Path) -> None:
    """As in the paper's recipes: `strict` holds images out of train for its other choices, and all that is said."""
    words = ["--data.val", "bundled/digits-id::test", "--detectors", "temperature", "--bootstrap", "0", "--quiet"]
    assert main(["evaluate", str(runs / "baseline"), *words, "--probes", "linear"]) == 0
    document = json.loads((runs / "baseline" / "results.json").read_text())
    notes = " ".join(document["identity"]["notes"])
    assert "data.val is data.test (bundled/digits-id::test): it chose the epoch that it tests" in notes
    assert "a tenth of ID train" in notes
