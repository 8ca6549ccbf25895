from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ood_nc.cli import main
from ood_nc.data import open_dataset
from ood_nc.deployment.file import describe
from ood_nc.evaluation import Results
from ood_nc.files import write_lock
from tests.helpers.tiny import write_images


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
    assert main([*words, "--experiment", "printed", "--print-config"]) == 0
    assert "experiment: printed" in capsys.readouterr().out and not (tmp_path / "runs" / "printed").exists()


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
        (["--ood", "textures=somewhere"], "nothing would read data.ood"),
        (["--checkpoint", "weights.pth"], "nothing would read model.checkpoint"),
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


def test_evaluating_again_gives_the_same_numbers(evaluated_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = evaluated_runs / "controlled"
    before = pq.read_table(directory / "results.parquet").to_pylist()
    assert main(["evaluate", str(directory), "--format", "openood"]) == 0
    after = pq.read_table(directory / "results.parquet").to_pylist()
    timed = "seconds"
    assert [row for row in before if row["metric"] != timed] == [row for row in after if row["metric"] != timed]
    assert "FPR@95" in (directory / "results-openood.csv").read_text()
    assert "projector" in capsys.readouterr().out


def test_the_tracker_gets_the_values_of_the_long_table(evaluated_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ood_nc.tracking import wandb_log

    summaries: list[dict[str, float]] = []

    class Recorder:
        def __init__(self, directory: Path, config: dict) -> None:
            assert directory == evaluated_runs / "baseline"

        def finish(self, summary: dict[str, float]) -> None:
            summaries.append(summary)

    monkeypatch.setattr(wandb_log, "WandbLog", Recorder)
    assert main(["evaluate", str(evaluated_runs / "baseline"), "--log-wandb", "--quiet"]) == 0
    rows = json.loads((evaluated_runs / "baseline" / "results.json").read_text())["rows"]
    (row,) = (r for r in rows if r["kind"] == "accuracy" and r["method"] == "head" and r["metric"] == "accuracy")
    key = "/".join(row[part] for part in ("kind", "tap", "dataset", "group", "method", "metric") if row[part])
    assert summaries[0][key] == row["value"]
    assert len(summaries[0]) == sum(r["value"] is not None for r in rows)


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


@pytest.mark.slow
def test_evaluate_ends_in_the_command_that_fits_what_it_recommends(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is run as it is printed: for a run whose data are elsewhere, and for a model from elsewhere."""
    dataset = open_dataset("bundled/digits-id::train")
    for index in range(60):
        folder = tmp_path / "digits" / str(dataset.targets[index])
        folder.mkdir(parents=True, exist_ok=True)
        dataset.load(index).save(folder / f"{index}.png")
    model = ["--model", "test_resnet", "--img-size", "32", "--taps", "layer3,encoder", "--id", str(tmp_path / "digits")]
    limits = ["--bootstrap", "0", "--probes", "linear", "--detectors", "knn,mahalanobis", "--device", "cpu", "-j", "0"]
    foreign = [*model, "--ood", "near=bundled/digits-near", "--output", str(tmp_path), "--experiment", "theirs"]
    ours = [str(trained_run), "--data.val-fraction", "0.3", "--eval-limit", "20"]
    for where in (ours, [*foreign, "--eval-limit", "40"]):
        assert main(["evaluate", *where, *limits]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("recommended"))
        told, _, command = line.partition(": ood-nc ")
        assert "without OOD data" in told and "in hindsight" in told
        words = shlex.split(command)
        assert words[0] == "fit" and main([*words, "--quiet"]) == 0
        detector, tap = told.partition("): ")[2].partition(",")[0].split(" on ")
        assert describe(Path(words[-1]))["about"]["detectors"] == [f"{detector} on {tap}"]


def test_where_the_epoch_was_chosen_on_the_test_set_nothing_else_is(evaluated_runs: Path) -> None:
    """As in the paper's recipes: `strict` holds images out of train for its other choices, and all that is said."""
    words = ["--data.val", "bundled/digits-id::test", "--detectors", "temperature", "--bootstrap", "0", "--quiet"]
    assert main(["evaluate", str(evaluated_runs / "baseline"), *words, "--probes", "linear"]) == 0
    document = json.loads((evaluated_runs / "baseline" / "results.json").read_text())
    notes = " ".join(document["identity"]["notes"])
    assert "data.val is data.test (bundled/digits-id::test): it chose the epoch that it tests" in notes
    assert "a tenth of ID train" in notes


@pytest.mark.slow
def test_images_that_training_left_out_are_not_read_for_the_layers_inputs(tmp_path: Path) -> None:
    """With `intermediate` the evaluation ended at the first of them, behind everything else that it had measured."""
    for seed, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        write_images(tmp_path / name, 24, broken=int(name.endswith("a")), seed=seed)
    arguments = ["--data.train", str(tmp_path / "train"), "--data.test", str(tmp_path / "test"), "--data.skip-broken"]
    arguments += ["--model", "convnet6", "--img-size", "32", "--projector", "none", "--loss.entropy_weight", "0"]
    arguments += ["--epochs", "1", "-b", "16", "--device", "cpu", "-j", "0", "--intermediate.images", "20"]
    arguments += ["--evaluation.detectors", "energy", "--evaluation.probes", "knn", "--evaluation.bootstrap", "0"]
    assert main(["run", *arguments, "--output", str(tmp_path), "--experiment", "run"]) == 0
    rows = Results.load(tmp_path / "run").select(kind="layer", dataset="id_test", metric="accuracy_rank_c")
    assert rows and {row["n"] for row in rows} == {48}
