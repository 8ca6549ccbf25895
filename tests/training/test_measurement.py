"""What is measured during training, against slow references."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState

from ood_nc.config import TrainConfig
from ood_nc.data import eval_transform, open_dataset
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel
from ood_nc.training import measurement
from ood_nc.training.launch import accelerator_for
from ood_nc.training.measurement import StepAverages, measure_collapse, validate


@pytest.fixture
def accelerator():
    with accelerator_for(TrainConfig(device="cpu")) as made:
        yield made
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ControlledModel("test_vit", 5, img_size=32, taps=("blocks.0", "encoder", "projector"))


@pytest.fixture(scope="module")
def digits(model):
    data = open_dataset("bundled/digits-id::test", limit=10)
    assert data.num_classes == model.num_classes
    return data.with_transform(eval_transform(model.preprocessing))


def test_averages_over_the_batches_since_the_last_reading(accelerator):
    averages = StepAverages(accelerator)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    averages.add(torch.tensor(1.0), {"task": torch.tensor(0.5)}, logits, torch.tensor([0, 0]))
    averages.add(torch.tensor(3.0), {"task": torch.tensor(1.5)}, logits, torch.tensor([0, 1]))
    values = averages.read(last_step=2)
    assert values.pop("images_per_second") > 0
    assert values == {"loss": 2.0, "task": 1.0, "accuracy": 0.75}
    averages.add(torch.tensor(9.0), {"task": torch.tensor(9.0)}, logits, torch.tensor([[0.4, 0.6], [0.9, 0.1]]))
    assert averages.read(last_step=3)["loss"] == 9.0


def test_no_targets_of_mixup_are_hard(accelerator):
    averages = StepAverages(accelerator)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    averages.add(torch.tensor(1.0), {}, logits, torch.tensor([[0.6, 0.4], [0.9, 0.1]]))
    assert averages.read(last_step=1)["accuracy"] == 0.5


@pytest.mark.parametrize(("bad", "per_step", "step"), [(0, 1, 7), (3, 1, 10), (1, 2, 9), (2, 2, 10)])
def test_the_step_of_a_loss_that_is_not_finite(accelerator, bad, per_step, step):
    averages = StepAverages(accelerator)
    for batch in range(4):
        loss = torch.tensor(math.inf if batch == bad else 1.0)
        averages.add(loss, {}, torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match=f"became inf at step {step};"):
        averages.read(last_step=10, batches_per_step=per_step)


def test_the_first_tap_whose_features_are_not_finite_is_named(accelerator):
    averages = StepAverages(accelerator)
    sound, broken = torch.ones(2, 3), torch.tensor([[0.0, math.nan, 0.0]] * 2)
    for bad in (False, True):
        taps = {"layer1": sound, "layer2": broken if bad else sound, "encoder": broken if bad else sound}
        averages.add(torch.tensor(math.nan if bad else 1.0), {}, torch.zeros(2, 2), torch.zeros(2).long(), taps)
    with pytest.raises(UserError, match=r"became nan at step 2, its first .* those of tap .layer2"):
        averages.read(last_step=2)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_validation_is_the_mean_over_samples(accelerator, model, digits, batch_size):
    objective = Objective(smoothing=0.1, entropy_weights={"encoder": 5.0})
    scores = validate(model, digits, objective, accelerator, batch_size=batch_size)
    model.eval()
    images, targets = zip(*[digits[i] for i in range(len(digits))], strict=True)
    with torch.no_grad():
        logits = model(torch.stack(images)).double()
    targets = torch.tensor(targets)
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    assert scores["loss"] == pytest.approx(float(expected), abs=1e-6)
    assert scores["accuracy"] == float((logits.argmax(1) == targets).double().mean())


@pytest.mark.parametrize("world", [2, 3, 4])
def test_validation_does_not_depend_on_the_number_of_processes(accelerator, model, digits, world, monkeypatch):
    """Each process in turn, its share put aside; the last one gathers them all."""
    small = digits.subset(range(10))
    alone = validate(model, small, Objective(), accelerator, batch_size=4)
    shares = []

    def gather(share):
        shares.extend(share)
        return shares

    monkeypatch.setattr(measurement, "gather_object", gather)

    class Rank:
        num_processes, device, autocast = world, accelerator.device, accelerator.autocast

        def __init__(self, index):
            self.process_index = index

    for rank in range(world):
        scores = validate(model, small, Objective(), Rank(rank), batch_size=4)
    assert sum(count for _, _, count in shares) == 10
    assert scores["accuracy"] == alone["accuracy"]
    assert scores["loss"] == pytest.approx(alone["loss"], abs=1e-6)


def test_collapse_of_every_tap_is_that_of_its_features(accelerator, model, digits):
    values = measure_collapse(model, digits, accelerator, batch_size=16)
    assert {name.split("/")[1] for name in values} == {"blocks.0", "encoder", "projector"}
    model.eval()
    images, targets = zip(*[digits[i] for i in range(len(digits))], strict=True)
    with torch.no_grad():
        _, taps = model.forward_taps(torch.stack(images))
    targets = torch.tensor(targets)
    for tap in model.tap_names:
        by_class = [taps[tap].double()[targets == c] for c in range(model.num_classes)]
        means = torch.stack([features.mean(0) for features in by_class])
        within = sum(float(((f - m) ** 2).sum()) for f, m in zip(by_class, means, strict=True)) / len(targets)
        between = float(((means - means.mean(0)) ** 2).sum()) / model.num_classes
        assert values[f"collapse/{tap}/nc1_ratio"] == pytest.approx(within / between, rel=1e-4)
    assert "collapse/projector/nc3_duality" in values and "collapse/encoder/nc3_duality" not in values


def test_collapse_is_measured_on_a_bounded_sample_that_stays_the_same(accelerator, model, digits, monkeypatch):
    seen = []
    subset = measurement.Subset

    def spying(dataset, chosen):
        seen.append(list(chosen))
        return subset(dataset, chosen)

    monkeypatch.setattr(measurement, "Subset", spying)
    for seed in (0, 0, 1):
        measure_collapse(model, digits, accelerator, batch_size=16, seed=seed, images=20)
    assert len(seen[0]) == 20 and seen[0] == seen[1] != seen[2]
