"""A run on label sets, from its configuration to the rows of its results."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from ood_nc.cli import main
from ood_nc.collapse import measure_multilabel
from ood_nc.config import DataConfig, load
from ood_nc.data import load_label_sets, load_suite
from ood_nc.detection import create_detector, create_feature_detector
from ood_nc.errors import UserError
from ood_nc.evaluation import Results
from ood_nc.multilabel import evaluate_label_sets, evaluation, max_logit
from ood_nc.tracking import read_log
from ood_nc.training import load_run, train
from tests.helpers.tiny import write_images

SETTINGS = {
    "model.name": "convnet6",
    "model.in_chans": 1,
    "model.img_size": 16,
    "model.taps": ["encoder", "projector"],
    "model.projector.kind": "plastic",
    "model.projector.dim": 5,
    "model.projector.depth": 1,
    "model.head": "etf",
    "loss.task": "none",
    "loss.entropy_weight": 0.0,
    "loss.terms": [{"name": "pick_all_label", "weight": 1.0}],
    "augment.no_aug": True,
    "data.ood": {"textures": "bundled/textures"},
    "multilabel.counts": {1: [12], 2: [6, 3, 1]},
    "multilabel.test_counts": {1: [6], 2: [2]},
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.workers": 0,
    "train.device": "cpu",
    "train.collapse_interval": 1,
    "train.track_interval": 0,
    "evaluation.detectors": ["knn", "energy"],
    "evaluation.bootstrap": 20,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run and its configuration."""
    config = load(None, {**SETTINGS, "output": str(tmp_path_factory.mktemp("runs")), "experiment": "run"})
    train(config)
    return config


def test_rows_are_the_measurements_of_the_model(run):
    model, _ = load_run(run.run_directory, which="last")
    data = load_label_sets(run.data, run.multilabel, seed=run.train.seed)
    results = evaluate_label_sets(model, data, run)
    images = torch.stack([row[0] for row in data.id_train.with_transform(_plain(model))])
    sets = torch.from_numpy(data.id_train.label_sets)
    with torch.no_grad():
        logits, taps = model.eval().forward_taps(images)
    report = measure_multilabel(taps["encoder"], sets)
    where = {"kind": "collapse", "tap": "encoder", "dataset": "id_train"}
    assert results.select(**where, metric="mlab_nc1_m2")[0]["value"] == pytest.approx(report.by_multiplicity[1].nc1)
    angles = {row["metric"] for row in results.select(**where) if "_of_" in row["metric"]}
    assert len(angles) == 3  # three frequencies
    top = logits.topk(2, dim=1).indices.sort().values
    pairs = sets.sum(1) == 2
    right = (top[pairs] == sets[pairs].nonzero()[:, 1].view(-1, 2)).all(1).double().mean()
    of_pairs = {"kind": "accuracy", "dataset": "id_train", "method": "head, 2 labels"}
    (row,) = results.select(**of_pairs, metric="subset_accuracy")
    assert row["value"] == pytest.approx(float(right))
    methods = {row["method"] for row in results.select(kind="detection", dataset="textures", metric="auroc")}
    assert methods == {"joint_energy", "max_logit", "nearest_by_label", "knn", "energy"}
    table = results.scores.to_pydict()
    whole = results.select(kind="accuracy", dataset="id_test", method="head", metric="subset_accuracy")[0]
    kept = [right for right in table["correct/projector/head"] if right is not None]
    assert whole["n"] == len(kept) and whole["value"] == pytest.approx(sum(kept) / len(kept))
    (alone,) = results.select(kind="accuracy", dataset="id_test", method="head", metric="accuracy")
    assert alone["value"] == whole["value"]  # what the report and compare call the ID accuracy
    told = table["score/projector/joint_energy"], table["dataset"]
    of = {name: [score for score, dataset in zip(*told, strict=True) if dataset == name] for name in set(told[1])}
    (energy,) = results.select(method="joint_energy", metric="auroc", dataset="textures")
    beaten = [sum(a > b for b in of["textures"]) + sum(a == b for b in of["textures"]) / 2 for a in of["id_test"]]
    assert energy["value"] == pytest.approx(sum(beaten) / len(of["id_test"]) / len(of["textures"]))
    assert results.identity["notes"] == ["trained parameters of projector and head: 645"]  # the head is fixed


def test_every_ood_set_is_of_its_group(run):
    """All were far, whatever the configuration said of them."""
    sets = {"near": {"source": "bundled/digits-near", "group": "near"}, "textures": "bundled/textures"}
    own = {"data.ood": sets, "data.eval_limit": 20, "evaluation.detectors": ["knn"], "evaluation.bootstrap": 0}
    config = load(None, {**SETTINGS, **own, "output": run.output, "experiment": "run"})
    model, _ = load_run(run.run_directory, which="last")
    results = evaluate_label_sets(model, load_label_sets(config.data, config.multilabel, seed=0), config)
    found = results.select(kind="detection", method="joint_energy", metric="auroc")
    values = {(row["dataset"], row["group"]): row["value"] for row in found}
    assert set(values) == {
        ("near", "near"),
        ("textures", "far"),
        *(("mean", group) for group in ("near", "far", "ood")),
    }
    assert values["mean", "near"] == values["near", "near"]
    assert {name: one["group"] for name, one in results.identity["datasets"].items() if name in sets} == {
        "near": "near",
        "textures": "far",
    }


def test_images_and_sets_that_cannot_be_read_are_left_out_as_in_other_runs(run, tmp_path):
    """One broken image of an OOD set ended the evaluation, behind all of the training."""
    write_images(tmp_path / "noise", 8)
    write_images(tmp_path / "damaged", 8, broken=2)
    write_images(tmp_path / "broken", 0, broken=2)
    (tmp_path / "empty").mkdir()
    sets = {name: str(tmp_path / name) for name in ("noise", "damaged", "broken", "empty")}
    config = run.model_copy(update={"data": DataConfig(**{**run.data.model_dump(), "ood": sets})})
    data = load_label_sets(config.data, config.multilabel, seed=0)
    found = evaluate_label_sets(load_run(run.run_directory, which="last")[0], data, config)
    rows = {row["dataset"]: row for row in found.select(method="knn", tap="encoder", metric="auroc", kind="detection")}
    assert rows["damaged"]["value"] == rows["noise"]["value"] and rows["damaged"]["n"] == 8
    assert all(
        rows[name]["value"] is None and "no readable image" in rows[name]["reason"] for name in ("broken", "empty")
    )
    assert rows["mean"]["n"] == 2
    notes = "; ".join(found.identity["notes"])
    assert "damaged: 2 of 10 images cannot be read and are left out (broken0.png: " in notes
    assert "None of the 2 images of " in notes and "empty holds no images: it is undefined and in no mean" in notes
    assert found.identity["datasets"]["damaged"]["broken"]["count"] == 2
    assert found.scores["dataset"].to_pylist().count("damaged") == 8


def test_images_that_are_tested_and_were_trained_on_are_told(run):
    """As in every other evaluation: a table whose test rows are training rows had perfect numbers and no note."""
    model, _ = load_run(run.run_directory, which="last")
    data = load_label_sets(run.data, run.multilabel, seed=0)
    leaking = replace(data, id_test=data.id_train.subset(range(60)), ood={"textures": data.id_val}, groups=data.groups)
    notes = evaluate_label_sets(model, leaking, run).identity["notes"]
    assert notes[1].startswith("60 of 60 images of ID test are also in ID train")
    assert notes[2].startswith(f"{len(data.id_val)} of {len(data.id_val)} images of textures are also in ID val")


def test_a_run_whose_images_all_have_several_labels_is_trained_and_measured(tmp_path):
    counts = {"multilabel.counts": {2: [6]}, "multilabel.test_counts": {2: [2]}, "train.epochs": 1}
    config = load(None, {**SETTINGS, **counts, "output": str(tmp_path), "experiment": "pairs"})
    model, _ = load_run(train(config), which="last")
    results = evaluate_label_sets(model, load_label_sets(config.data, config.multilabel, seed=0), config)
    rows = results.select(kind="collapse")
    assert rows and all(row["value"] is None and "one label alone" in row["reason"] for row in rows)
    assert results.select(kind="detection", method="joint_energy", metric="auroc", dataset="textures")[0]["value"] > 0
    assert results.select(kind="accuracy", method="head", metric="accuracy")[0]["value"] is not None


def test_ood_sets_are_of_their_groups_and_those_of_a_suite_are_measured(run):
    given = {"textures": {"source": "bundled/textures", "group": "covariate"}, "again": "bundled/textures"}
    changed = {"ood": given, "suite": "bundled", "eval_limit": 10}
    config = run.model_copy(update={"data": DataConfig(**{**run.data.model_dump(), **changed})})
    data = load_label_sets(config.data, config.multilabel, seed=0)
    results = evaluate_label_sets(load_run(run.run_directory, which="last")[0], data, config)
    of_knn = results.select(kind="detection", method="knn", tap="encoder", metric="auroc")
    found = {(row["dataset"], row["group"]): row["value"] for row in of_knn}
    suite = {name: entry["group"] for name, entry in load_suite("bundled")["ood"].items()}
    groups = suite | {"textures": "covariate", "again": "far"}
    assert {dataset: group for dataset, group in found if dataset != "mean"} == groups
    ood = [found[name, group] for name, group in groups.items() if group != "covariate"]
    assert found["mean", "ood"] == pytest.approx(sum(ood) / len(ood))
    assert results.identity["datasets"]["textures"]["group"] == "covariate"


def test_a_detector_that_fails_or_gives_nan_costs_no_other(run, monkeypatch):
    class Failing(create_detector("knn").__class__):
        """Fails at every fit, and not in words for users."""

        def fit(self, *arguments, **settings):
            return [][0]

    def made(name):
        return Failing() if name == "knn" else create_feature_detector(name)

    def no_number(logits, **settings):
        return max_logit(logits, **settings).index_fill(0, torch.tensor([0]), float("nan"))

    monkeypatch.setattr(evaluation, "create_feature_detector", made)
    monkeypatch.setattr(evaluation, "max_logit", no_number)
    data = load_label_sets(run.data, run.multilabel, seed=0)
    results = evaluate_label_sets(load_run(run.run_directory, which="last")[0], data, run)
    of_head = results.select(kind="detection", tap="projector", dataset="textures", metric="auroc")
    found = {row["method"]: row for row in of_head}
    assert {name for name, row in found.items() if row["value"] is None} == {"knn", "max_logit"}
    assert "IndexError" in found["knn"]["reason"] and "NaN" in found["max_logit"]["reason"]


def _plain(model):
    from ood_nc.data import eval_transform

    return eval_transform(model.preprocessing)


def test_the_course_of_collapse_is_logged_and_the_run_goes_on_where_it_stopped(run, tmp_path):
    lines = [line for line in read_log(run.run_directory / "metrics.jsonl") if line["split"] == "collapse"]
    assert len(lines) == 2 and "collapse/encoder/mlab_angle_ratio_m2" in lines[0]
    settings = {**SETTINGS, "output": str(tmp_path), "experiment": "run"}
    train(load(None, {**settings, "train.epochs": 1}))
    whole = load(None, settings)
    # The schedule is laid over the length, so the short run is one of another length: only that it goes on is asked.
    train(whole, resume=True)
    assert load_run(whole.run_directory, which="last")[1].train.epochs == 2


def test_from_the_command_line_to_a_report(run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(run.to_yaml())
    arguments = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path), "--epochs", "1"]
    assert main(["run", *arguments]) == 0
    out = capsys.readouterr().out
    assert "label sets of held-out images" in out and "mean FPR95, joint_energy" in out and "trained parameters" in out
    assert (tmp_path / "run" / "report.html").exists()
    assert Results.load(tmp_path / "run").select(kind="accuracy", method="thresholds", metric="missed_labels")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["evaluate", str(tmp_path / "moved")]) == 0
    assert "moved: label sets" in capsys.readouterr().out
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    assert main(["compare", str(tmp_path / "moved"), str(tmp_path / "other"), "-o", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").exists()
    capsys.readouterr()
    assert main(["fit", str(tmp_path / "moved"), "--file", str(tmp_path / "detector.safetensors")]) == 2
    assert "several labels" in capsys.readouterr().err


def test_settings_that_do_not_fit_are_one_line():
    with pytest.raises(UserError, match=r"need loss\.task none"):
        load(None, {**SETTINGS, "loss.task": "cross_entropy"})
    with pytest.raises(UserError, match="mix images of one label"):
        load(None, {**SETTINGS, "augment.mixup": 0.2})
    with pytest.raises(UserError, match="intermediate needs images of one class each"):
        load(None, {**SETTINGS, "intermediate.images": 50})
    with pytest.raises(UserError, match="control needs images of one class each"):
        load(None, {**SETTINGS, "control": [{"target": 0.3}]})


def test_what_is_not_measured_on_label_sets_is_refused_or_told(run, tmp_path, capsys):
    """Transfer tasks and probes were passed over in silence."""
    asked = {"data.transfer": {"digits": "bundled/digits-transfer"}, "evaluation.probes": ["linear"]}
    config = load(None, {**SETTINGS, **asked})
    for changed, said in (
        (config, "A run on label sets does not read data.transfer, evaluation.probes: leave that out."),
        (load(None, {**SETTINGS, "evaluation.detectors": ["odin"]}), "'odin' needs images of one class each"),
    ):
        (tmp_path / "config.yaml").write_text(changed.to_yaml())
        for command in ("run", "train"):
            assert main([command, "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "runs")]) == 2
            assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    # A run that is there already, or whose suite has more, is measured as far as that goes.
    config.data.suite, config.data.ood, config.evaluation.bootstrap = "bundled", {}, 0
    data = load_label_sets(config.data, config.multilabel, seed=0)
    found = evaluate_label_sets(load_run(run.run_directory, which="last")[0], data, config)
    told = "not read in a run on label sets: data.transfer, evaluation.probes, the transfer tasks of bundled"
    assert told in found.identity["notes"]
