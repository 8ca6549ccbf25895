"""``ood-nc train`` and ``run``, through the command line, small: two runs on the bundled digits."""

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
from safetensors.torch import load_file

from ood_nc.cli import main
from ood_nc.config import load
from tests.helpers.cli import SMALL_EVALUATION


def test_a_run_directory_holds_what_it_promises(evaluated_runs: Path) -> None:
    directory = evaluated_runs / "controlled"
    names = {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "features", "results.parquet"}
    assert names | {"results.json", "report.html", "scores.parquet"} <= {path.name for path in directory.iterdir()}
    table = pq.read_table(directory / "results.parquet")
    assert {"collapse", "detection", "transfer", "accuracy"} <= set(table["kind"].to_pylist())
    assert {"layer3", "encoder", "projector"} <= set(table["tap"].to_pylist())
    document = json.loads((directory / "results.json").read_text())
    assert document["schema"] == 1
    assert document["relations"]
    assert {choice["task"] for choice in document["choices"]} == {"detection", "transfer"}


def test_a_run_is_never_overwritten(evaluated_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (evaluated_runs / "controlled" / "metrics.jsonl").read_bytes()
    words = ["train", *SMALL_EVALUATION, "--output", str(evaluated_runs), "--experiment", "controlled"]
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert (evaluated_runs / "controlled" / "metrics.jsonl").read_bytes() == before


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
    assert main(["train", *SMALL_EVALUATION, "--output", str(tmp_path / "runs"), *changes]) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("more", [[], ["--seeds", "0", "1"]])
@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (["--data.test", "null"], "data.test is not given"),
        (["--protocols", "strict", "full_spectrum"], "needs a covariate-shifted OOD set"),
    ],
)
def test_a_run_that_could_not_be_evaluated_is_not_trained(
    lacking: list[str], said: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL_EVALUATION, "--output", str(tmp_path / "runs"), "--experiment", "x", *lacking]
    assert main(["run", *words, *more]) == 2
    assert said in capsys.readouterr().err
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
    assert main(["train", *SMALL_EVALUATION, *where, "--lr", "0.003"]) == 0
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
