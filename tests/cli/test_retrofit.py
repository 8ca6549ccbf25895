"""`ood-nc retrofit`: what it leaves is what evaluate, fit, score and report read."""

from __future__ import annotations

import contextlib
import io
import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from ood_nc.cli import main
from ood_nc.cli.retrofit import accuracy_verdict
from ood_nc.config import load
from ood_nc.deployment import Detector
from ood_nc.documents import read_results
from ood_nc.models import ControlledModel
from ood_nc.tracking import read_log
from ood_nc.training import RunDirectory, load_run

SMALL = [
    *("--img-size", "32", "--data.limit", "30", "--eval-limit", "60", "-j", "0", "--device", "cpu"),
    *("--detectors", "energy,knn", "--probes", "nearest_mean", "--bootstrap", "50", "--suite", "bundled"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run without a projector, trained a little; its retrofit; and how many images that forwarded."""
    folder = tmp_path_factory.mktemp("retrofit")
    where = ["--output", str(folder), "--quiet"]
    words = ["train", *SMALL, "--model", "test_resnet", *where, "--experiment", "plain", "--projector", "none"]
    words += ["--entropy-weight", "0", "--taps", "encoder", "--epochs", "2", "-b", "32"]
    assert main(words) == 0
    forwarded, forward = [], ControlledModel.forward

    def counting(self, images, **options):
        forwarded.append(len(images))
        return forward(self, images, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ControlledModel, "forward", counting)
        words = ["retrofit", str(folder / "plain"), *where, "--experiment", "new", "--epochs", "5"]
        assert main(words) == 0
    return folder, sum(forwarded)


def test_the_backbone_is_the_old_one(made):
    folder, _ = made
    (old, _), (new, config) = load_run(folder / "plain"), load_run(folder / "new")
    state = new.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in old.backbone.state_dict().items())
    assert config.model.projector.kind == new.projector.kind == "plastic" and new.class_names == old.class_names
    lines, status = read_log(folder / "new" / "metrics.jsonl"), RunDirectory(folder / "new").read_status()
    assert (status["state"], status["epoch"], status["step"]) == ("finished", 5, lines[-1]["step"])
    assert [line["epoch"] for line in lines if line["split"] == "val"] == [1, 2, 3, 4, 5]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_every_image_is_forwarded_once_for_both_measurements(made):
    folder, forwarded = made
    before, after = read_results(folder / "new" / "original"), read_results(folder / "new")
    sizes = {name: entry["n"] for name, entry in after["identity"]["datasets"].items()}
    # The parts of a transfer task are in the OOD set of the same source; images made of ID validation come on top.
    assert forwarded <= sum(sizes.values()) + sizes["id_val"]
    assert before["identity"]["weights_hash"] != after["identity"]["weights_hash"]

    def knn(document):
        wanted = {"kind": "detection", "tap": "encoder", "method": "knn", "metric": "auroc"}
        return [row["value"] for row in document["rows"] if wanted.items() <= row.items()]

    assert knn(before) == knn(after) and len(knn(before)) > 2
    assert after["identity"]["head_tap"] == "projector" and before["identity"]["head_tap"] == "encoder"
    sentences = json.loads((folder / "new" / "comparison.json").read_text())["verdicts"]
    assert sentences[0].startswith("ID accuracy") and "at the encoder; against the best of them" in sentences[1]
    assert (folder / "new" / "report.html").stat().st_size > 10_000


def test_the_detector_file_reads_the_projector(made):
    folder, _ = made
    detector = Detector.load(folder / "new" / "detector.safetensors")
    assert [member.name for member in detector.members] == ["knn on projector"]


def test_what_it_cannot_do_is_one_line(made, tmp_path, capsys):
    folder, _ = made
    weights, run = str(tmp_path / "w.pth"), str(folder / "plain")
    lines = {
        (str(folder / "new"), "--output", str(tmp_path), "--experiment", "twice"): "has a projector already",
        (run, "--output", str(folder), "--experiment", "new"): "already holds a run",
        (run, "--output", str(folder), "--experiment", "plain"): "another --experiment",
        (run, "--output", str(tmp_path), "--detector", "vim"): "name it in --detectors",
        (run, "--output", str(tmp_path), "--detector", "odin"): "reads the whole network",
        (run, "--output", str(tmp_path), "--detector", "vin"): "Did you mean 'vim'",
        (run, "--output", str(tmp_path), "--projector", "none"): "kind is none",
        (run, "--output", str(tmp_path), "--model", "resnet18"): "leave --config and --model out",
        (run, "--output", str(tmp_path), "--model-ema"): "train.model_ema changes nothing",
        (run, "--output", str(tmp_path), "--mixup", "0.2"): "augment.mixup changes nothing",
        (run, "--output", str(tmp_path), "--data.outliers", "x"): "data.outliers changes nothing",
        (weights, "--train", str(tmp_path)): "--model NAME",
        (weights, "--model", "test_resnet"): "--train FOLDER",
        (weights, "--model", "test_resnet", "--train", str(tmp_path)): "w.pth",
    }
    for words, expected in lines.items():
        assert main(["retrofit", *words]) == 2, words
        captured = capsys.readouterr().err
        assert expected in captured and captured.count("\n") == 1, captured


def test_other_images_bring_no_validation_images_of_the_old_ones(made, tmp_path):
    """The threshold of the detector would be that of other data."""
    folder, _ = made
    shutil.copytree(folder / "plain", tmp_path / "plain")
    config = load(tmp_path / "plain" / "config.yaml", {"data.val": "bundled/digits-id::test"})
    (tmp_path / "plain" / "config.yaml").write_text(config.to_yaml())
    words = ["retrofit", str(tmp_path / "plain"), "--output", str(tmp_path), "--experiment", "new", "--epochs", "1"]
    for more, val in (([], "bundled/digits-id::test"), (["--train", "bundled/digits-transfer"], None)):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main([*words, *more, "--print-config"]) == 0
        assert yaml.safe_load(printed.getvalue())["data"]["val"] == val


def test_a_run_on_label_sets_is_refused(made, tmp_path, capsys):
    folder, _ = made
    shutil.copytree(folder / "plain", tmp_path / "plain")
    terms = [{"name": "pick_all_label", "weight": 1.0}]
    changes = {"multilabel.miss_rate": 0.1, "loss.task": "none", "loss.terms": terms}
    (tmp_path / "plain" / "config.yaml").write_text(load(tmp_path / "plain" / "config.yaml", changes).to_yaml())
    private = ["private-head", "--epsilon", "1", "--delta", "1e-5", "-o", str(tmp_path / "h.safetensors")]
    for words in (["retrofit"], private):
        assert main([*words, str(tmp_path / "plain")]) == 2
        assert "learnt images with several labels" in capsys.readouterr().err


def test_accuracy_is_kept_within_half_a_point():
    assert accuracy_verdict(0.95, 0.946) == "ID accuracy 95.0 % -> 94.6 % (-0.4 points: kept)."
    assert "NOT kept within 0.5 points" in accuracy_verdict(0.95, 0.94)


@pytest.mark.slow
def test_an_adapter_is_measured_and_used_like_any_other_tap(made, tmp_path, capsys):
    folder, _ = made
    words = ["retrofit", str(folder / "plain"), "--output", str(folder), "--experiment", "adapted", "--epochs", "3"]
    words += ["--model.projector.adapter", "8", "--control", "[{tap: adapter, metric: nc1, target: 1.0}]"]
    assert main(words) == 0
    assert "control: nc1 of adapter at 1 is" in capsys.readouterr().err
    (old, _), (new, config) = load_run(folder / "plain"), load_run(folder / "adapted")
    state = new.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in old.backbone.state_dict().items())
    assert new.tap_names[-3:] == ("encoder", "adapter", "projector") and config.model.projector.adapter == 8
    log = [line for line in read_log(folder / "adapted" / "metrics.jsonl") if line["split"] == "control"]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    document = read_results(folder / "adapted")
    wanted = {"tap": "adapter", "dataset": "id_train", "metric": "nc1_pinv"}
    (value,) = (row["value"] for row in document["rows"] if wanted.items() <= row.items())
    assert value == pytest.approx(log[-1]["control/adapter/nc1/measured"], rel=0.02)  # the bank is of half precision
    sentences = json.loads((folder / "adapted" / "comparison.json").read_text())["verdicts"]
    where = [sentence.split(", ")[1] for sentence in sentences[1:5]]
    assert where == 2 * ["knn at the projector"] + 2 * ["knn at the adapter"]
    file, image = tmp_path / "knn.safetensors", tmp_path / "image.png"
    words = ["fit", str(folder / "adapted"), "--detector", "knn", "--tap", "adapter", "-o", str(file), "--quiet"]
    assert main(words) == 0
    detector = Detector.load(file)
    assert [member.name for member in detector.members] == ["knn on adapter"]
    Image.new("RGB", (32, 32), (200, 30, 90)).save(image)
    assert main(["explain", str(file), str(image), "-o", str(tmp_path / "page.html"), "--device", "cpu"]) == 0
    assert "adapter" in (tmp_path / "page.html").read_text()
