"""Controlled taps on a problem whose NC1 is known in closed form, and in runs of the loop."""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ood_nc.collapse import ClassStatistics, nc1_ratio
from ood_nc.config import ControlConfig, LossConfig
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.tracking import read_log
from ood_nc.training import loop, train
from ood_nc.training.control import Control, measure, steered_terms
from ood_nc.training.measurement import StepAverages

CLASSES, DIM, BATCH, STEPS = 4, 6, 64, 400
MEANS = torch.eye(CLASSES, DIM) - torch.eye(CLASSES, DIM).mean(0)
NAME = "control/encoder/nc1/"
ROOT = Path(__file__).parents[2]


class Spread(nn.Module):
    """Features around fixed class means, of a width that is learned: NC1 is (C - 1) width^2, as Sigma_W is width^2 I
    and M has C - 1 singular values of 1. A pull on the width stands for the task."""

    def __init__(self) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(0.0))

    def forward(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(len(labels), DIM, generator=generator)
        return MEANS[labels] + noise * self.log_width.exp()

    @property
    def nc1(self) -> float:
        return (CLASSES - 1) * math.exp(2 * self.log_width.item())


def made(target: float, side: str = "at", metric: str = "nc1") -> tuple[Control, Objective]:
    controls = [ControlConfig(metric=metric, target=target, side=side)]
    objective = Objective(entropy_weights={}, steered=steered_terms(controls, LossConfig()))
    counts = torch.full((CLASSES,), 500)
    return Control(controls, counts, objective, batches=STEPS), objective


def trained(control: Control, objective: Objective, *, pull: float = 0.3, steps: int = STEPS) -> Spread:
    generator, spread = torch.Generator().manual_seed(0), Spread()
    optimizer = torch.optim.SGD(spread.parameters())
    for step in range(steps):
        rate = (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["lr"] = 0.1 * rate
        labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        taps = {"encoder": spread(labels, generator)}
        steered, parts = objective(torch.zeros(BATCH, CLASSES), labels, taps)
        loss = steered + pull * spread.log_width.exp()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        control.step(parts, rate)
        if step % 40 == 39:
            labels = torch.randint(0, CLASSES, (2000,), generator=generator)
            control.correct(control.measure({"encoder": spread(labels, generator).detach()}, labels))
    return spread


@pytest.mark.parametrize("target", [0.1, 0.4, 1.5])
def test_a_problem_in_closed_form_lands_on_its_target(target: float) -> None:
    control, objective = made(target)
    spread = trained(control, objective)
    assert spread.nc1 == pytest.approx(target, rel=0.1)
    values = control.values()
    assert values[NAME + "target"] == target
    assert values[NAME + "measured"] == pytest.approx(spread.nc1, rel=0.1)
    assert values[NAME + "estimate"] == pytest.approx(spread.nc1, rel=0.1)
    assert not control.news()
    assert control.outcome()[0].startswith(f"control: nc1 of encoder at {target:g} is {values[NAME + 'measured']:.3g}")


def test_one_fixed_weight_lands_elsewhere() -> None:
    """What the targets above ask of the weight: left at 0 the width only falls."""
    control, objective = made(1.5, side="below")  # which never has to raise it
    assert trained(control, objective).nc1 < 0.1
    assert control.met and control.values()[NAME + "weight"] == 0


@pytest.mark.parametrize(("metric", "target"), [("vci", 0.3), ("entropy", -2.0), ("effective_rank", 4.5)])
def test_the_other_metrics_land_too(metric: str, target: float) -> None:
    control, objective = made(target, metric=metric)
    trained(control, objective)
    value = control.values()[f"control/encoder/{metric}/measured"]
    assert value == (pytest.approx(target, abs=0.1) if metric == "entropy" else pytest.approx(target, rel=0.1))
    assert control.met


def test_an_epoch_on_target_is_better_than_one_that_is_not(small, monkeypatch):
    met, accuracies = iter([False, True, True, False]), iter([0.9, 0.5, 0.6, 0.8])
    monkeypatch.setattr(Control, "met", property(lambda _: next(met)))
    monkeypatch.setattr(loop, "validate", lambda *_, **__: {"loss": 1.0, "accuracy": next(accuracies)})
    state = torch.load(
        train(small(**CONTROLLED | {"train.epochs": 4})) / "checkpoints" / "last.state.pt", weights_only=True
    )
    assert (state["best_epoch"], state["best_accuracy"], state["best_met"]) == (3, 0.6, True)


def test_a_target_out_of_reach_is_said_once() -> None:
    control, objective = made(2.5)
    trained(control, objective, pull=30.0)
    (line,) = control.news()
    assert line.startswith("control: nc1 of encoder is 0.") and "does not reach 2.5" in line and "\n" not in line
    assert not control.news()
    assert "missed" in control.outcome()[0]


def test_a_batch_of_one_image_a_class_tells_nothing() -> None:
    """Its loss is 0 for want of a deviation, which is not an NC1 of 1."""
    control, _ = made(0.4)
    for value in (2.0, 0.0, 4.0, math.nan):
        control.taps["encoder"].add({"nc1/encoder": torch.tensor(value)})
    assert control.state_dict()["taps"]["encoder"]["pending"].tolist() == [6.0, 2.0]


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    (whole, first), (second, objective) = made(0.4), made(0.4)
    trained(whole, first, steps=90)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for control, own in ((whole, first), (second, objective)):
        trained(control, own, steps=50)
    assert second.values() == whole.values()
    assert second.values()[NAME + "weight"] != 0


def test_measurements_are_of_the_full_set() -> None:
    """A sample tells the trace ratio of its set without the noise of its class means: d C / (C - 1) is exact here."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(160) % CLASSES
    values, plain = [], []
    for _ in range(50):
        rows = MEANS[labels] + torch.randn(160, DIM, generator=generator)
        values.append(measure("nc1_ratio", rows, labels, torch.full((CLASSES,), 10**6)))
        plain.append(nc1_ratio(ClassStatistics(CLASSES, DIM).update(rows, labels)))
    exact = DIM * CLASSES / (CLASSES - 1)
    assert sum(values) / len(values) == pytest.approx(exact, rel=0.1)
    assert sum(plain) / len(plain) < 0.9 * exact


def test_a_rare_class_that_the_sample_lacks_does_not_keep_it_from_being_measured() -> None:
    """Of a thousand classes four thousand images lack a dozen, and of a long tail its end."""
    generator, labels = torch.Generator().manual_seed(2), torch.arange(120) % 3
    rows = MEANS[labels] + torch.randn(120, DIM, generator=generator)
    with_tail = measure("nc1_pinv", rows, labels, torch.tensor([500, 500, 500, 2]))
    assert with_tail == measure("nc1_pinv", rows, labels, torch.tensor([500, 500, 500])) is not None
    assert measure("nc1_pinv", rows[:3], labels[:3], torch.tensor([500] * 4)) is None  # no class has two


CONTROLLED = {
    "control": [
        {"tap": "encoder", "metric": "nc1", "target": 5.0},
        {"tap": "adapter", "metric": "effective_rank", "target": 9.0},
        {"tap": "projector", "metric": "entropy", "target": -1.0, "side": "above"},
    ],
    "model.projector.adapter": 4,
    "model.taps": ["encoder", "adapter", "projector"],
    "train.epochs": 3,
    "train.track_interval": 0,
}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(small, monkeypatch):
    whole = train(small("whole", **CONTROLLED))
    add, seen = StepAverages.add, []

    def interrupting(self, *arguments):
        add(self, *arguments)
        seen.append(1)
        if len(seen) == len(read_steps(whole)) // 2 + 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepAverages, "add", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(small("cut", **CONTROLLED))
    monkeypatch.setattr(StepAverages, "add", add)
    cut = train(small("cut", **CONTROLLED), resume=True)
    assert controls(cut) == controls(whole)
    weights = [(folder / "checkpoints" / "last.safetensors") for folder in (whole, cut)]
    first, second = (load_file(path) for path in weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = controls(whole)[-1]
    assert last["control/encoder/nc1/weight"] != 0 and last["control/encoder/nc1/measured"] > 0
    assert last["control/projector/entropy/target"] == -1.0
    assert last["control/adapter/effective_rank/weight"] != 0 and float(first["adapter.up.weight"].abs().max()) > 0


def controls(directory):
    return [line for line in read_log(directory / "metrics.jsonl") if line["split"] == "control"]


def read_steps(directory):
    return range(read_log(directory / "metrics.jsonl")[-1]["step"])


def test_what_it_cannot_do_is_said(small):
    with pytest.raises(UserError, match=r"control names 'encodr'.*Did you mean 'encoder'"):
        train(small(**{"control": [{"tap": "encodr", "target": 1.0}]}))
    with pytest.raises(UserError, match=r"turn augment\.mixup"):
        train(small(**{"control": [{"target": 1.0}], "augment.mixup": 0.5}))


@pytest.mark.slow
def test_a_network_whose_batches_tell_little_lands() -> None:
    """At this target a change of the batches' average hardly shows in the set (a share of 0.15): followed as if it did,
    the same runs ended 6 and 9 % off."""
    specification = importlib.util.spec_from_file_location("control_trial", ROOT / "scripts" / "control_trial.py")
    assert specification is not None and specification.loader is not None
    trial = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(trial)
    pixels, _ = trial.images("digits", ROOT)
    for seed in (202, 208):
        _, control = trial.trained("resnet", pixels, seed, 2.0, 0.0)
        assert control.values()[NAME + "measured"] == pytest.approx(2.0, rel=0.05)
