from __future__ import annotations

import json
import math

import pytest
import torch
from accelerate import Accelerator

from ood_nc.config import Config, PixelConfig
from ood_nc.data import eval_transform
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.tracking import read_log
from ood_nc.training import train
from ood_nc.training.objectives import balanced_weights
from ood_nc.training.setup import prepare


def test_the_pixel_rules_of_a_run_stay_with_its_model():
    rules = PixelConfig(value_range=(0, 4095), background="black", orientation=False, max_pixels=10_000)
    config = Config(model={"name": "resnet10t"}, data={"pixels": rules.model_dump()}, train={"workers": 0})
    setup = prepare(config, Accelerator(cpu=True))
    assert setup.loader.dataset.dataset.pixels == setup.val.pixels == setup.train_plain.pixels == rules
    copy = ControlledModel.from_spec(json.loads(json.dumps(setup.model.spec())))
    assert eval_transform(copy.preprocessing).pixels == rules


def test_comparators_are_terms_of_the_objective(small):
    """LogitNorm in the place of the task loss, and a contrastive term beside it, from the configuration alone."""
    terms = [
        {"name": "logit_norm", "tap": "encoder", "weight": 1.0, "kwargs": {"temperature": 0.5}},
        {"name": "supervised_contrastive", "tap": "encoder", "weight": 0.1},
    ]
    settings = {"loss.task": "none", "loss.terms": terms, "loss.entropy_weight": 0.0, "train.epochs": 1}
    lines = read_log(train(small(**settings)) / "metrics.jsonl")
    (last, *_) = [line for line in reversed(lines) if line["split"] == "train"]
    assert last["task"] == 0
    parts = last["logit_norm/encoder"] + 0.1 * last["supervised_contrastive/encoder"]
    assert last["loss"] == pytest.approx(parts, rel=1e-5)
    (val,) = [line for line in lines if line["split"] == "val"]
    assert 0 <= val["accuracy"] <= 1


def test_outliers_and_class_weights_come_from_the_configuration_and_are_recorded(small):
    """Where a term takes the place of the task, validation measures it too: it needs the head, and has no outliers."""
    terms = [
        {"name": "t2fnorm", "tap": "encoder", "weight": 1.0},
        {"name": "outlier_exposure", "tap": "encoder", "weight": 0.5},
        {"name": "deep_supervision", "tap": "blocks.0", "weight": 0.3},
    ]
    own = {"loss.task": "none", "loss.terms": terms, "loss.entropy_weight": 0.0, "model.projector.kind": "none"}
    own |= {"model.taps": ["blocks.0", "encoder"], "model.auxiliary": ["blocks.0"]}
    run = train(small("exposed", **own, **{"train.epochs": 1, "data.outliers": "bundled/textures"}))
    lines = {line["split"]: line for line in read_log(run / "metrics.jsonl")}
    assert lines["train"]["outlier_exposure/encoder"] >= math.log(5) - 1e-6 and math.isfinite(lines["val"]["loss"])
    assert 0 < lines["train"]["deep_supervision/blocks.0"] < 3
    assert json.loads((run / "environment.json").read_text())["class_weights"] is None
    with pytest.raises(UserError, match=r"name outlier_exposure in loss\.terms"):
        train(small("unread", **{"data.outliers": "bundled/textures"}))
    run = train(small("weighted", **{"train.epochs": 1, "loss.class_weights": "balanced"}))
    assert json.loads((run / "environment.json").read_text())["class_weights"] == pytest.approx([1.0] * 5)


def test_balanced_weights_are_in_inverse_proportion_to_images_and_one_on_average():
    targets = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(targets, 4)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 0.0, 10 / 3])
    assert float(weights[targets].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("sched", ["cosine", "none"])
def test_the_pace_of_control_under_layer_decay_is_that_of_the_highest_rate(small, sched):
    """It was the highest rate by the peak of the lowest layer: 128 times as fast with a decay of a half."""
    setup = prepare(small(**{"optim.layer_decay": 0.5, "optim.lr": 0.25, "optim.sched": sched}), Accelerator(cpu=True))
    assert setup.set_learning_rate(0, 0) == setup.peak_rate == 0.25
    assert setup.optimizer.param_groups[0]["lr"] < 0.01
