"""Fine-tuning as a probe: against a loop written anew, what it leaves alone, and mistakes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ood_nc.config import FineTuningConfig
from ood_nc.data import eval_transform
from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate, fine_tuning
from ood_nc.models import ControlledModel
from ood_nc.transfer import fit_linear_probe
from tests.helpers.tiny import arguments, bank, run_few

TUNED = FineTuningConfig(part="layer4", passes=2, learning_rate=3e-3)
METHOD = "fine-tuning (layer4; 2 epochs, adamw 0.003)"
TASK = arguments()["transfer"]["more digits"]


def tuned(model: ControlledModel, **options: Any) -> Results:
    return run_few(
        model, **{"transfer": {"more digits": TASK}, "detectors": [], "batch_size": 24, "finetune": TUNED, **options}
    )


def reference(model: ControlledModel) -> list[bool]:
    """By hand: AdamW without decay, a cosine to zero, the head from the linear probe, batch statistics in layer4."""
    train, test = (dataset.with_transform(eval_transform(model.preprocessing)) for dataset in TASK)
    backbone = copy.deepcopy(model.backbone).eval()
    probe = fit_linear_probe(bank(model, TASK[0]).taps["encoder"], train.targets)
    weight, bias = (part.clone().requires_grad_() for part in (probe.weight, probe.bias))
    learning = [*backbone.layer4.parameters()]
    for module in backbone.layer4.modules():
        module.training = isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Conv2d))
    optimizer = torch.optim.AdamW([*learning, weight, bias], lr=3e-3, weight_decay=0.0)
    order, step, steps = torch.Generator().manual_seed(0), 0, 2 * -(-len(train) // 24)
    images, labels = torch.stack([train[i][0] for i in range(len(train))]), torch.as_tensor(train.targets)
    for _ in range(2):
        for batch in torch.randperm(len(train), generator=order).split(24):
            optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + torch.tensor(torch.pi * step / steps).cos().item())
            optimizer.zero_grad()
            F.cross_entropy(backbone(images[batch]) @ weight.T + bias, labels[batch]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        logits = backbone.eval()(torch.stack([test[i][0] for i in range(len(test))])) @ weight.T + bias
    right: list[bool] = (logits.argmax(dim=1).numpy() == test.targets).tolist()
    return right


def test_equals_a_loop_written_anew_and_leaves_the_model_as_it_was(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = tuned(model)
    (row,) = results.select(kind="transfer", method=METHOD, metric="accuracy", dataset="more digits")
    right = reference(model)
    assert (row["tap"], row["n"], row["selected_on"]) == ("encoder", len(TASK[1]), None)
    assert row["value"] == pytest.approx(sum(right) / len(right), abs=1 / len(right))
    assert row["low"] < row["value"] < row["high"]
    assert results.select(method=METHOD, metric="accuracy", dataset="mean")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())


def test_only_the_named_part_and_the_head_learn(
    tiny: Callable[..., ControlledModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.Tensor] = {}
    train = fine_tuning._train

    def watched(network: torch.nn.Module, *rest: Any) -> None:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        train(network, *rest)
        seen.update({name: value for name, value in network.state_dict().items() if not value.equal(before[name])})

    monkeypatch.setattr(fine_tuning, "_train", watched)
    tuned(tiny())
    assert {name.split(".")[1] if name.startswith("0.") else "head" for name in seen} == {"layer4", "head"}
    assert any(name.endswith("running_mean") for name in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finetune": FineTuningConfig(part="layer5")}, "'layer5', which is no part of the backbone.*layer"),
        ({"finetune": FineTuningConfig(part="layer4", optimizer="adamv")}, "'adamv', which timm does not have"),
        ({"bank": False}, "needs a model, its images and a bank"),
    ],
)
def test_mistakes_are_one_line(tiny: Callable[..., ControlledModel], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tuned(tiny(), **options)
    assert "\n" not in str(caught.value)


def test_starts_from_the_encoder(tiny: Callable[..., ControlledModel]) -> None:
    with pytest.raises(UserError, match="name `encoder` among the taps"):
        evaluate(tiny(taps=("projector",)), **{**arguments(), "finetune": TUNED, "bootstrap": 0})


def test_a_last_batch_of_one_image_which_has_no_statistics_stops_nothing(tiny: Callable[..., ControlledModel]) -> None:
    (row,) = tuned(tiny(), batch_size=len(TASK[0]) - 1).select(method=METHOD, metric="accuracy", dataset="more digits")
    assert row["value"] is not None, row["reason"]
