from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from ood_nc.evaluation.open_model import open_model
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments

FEW = {"detectors": ["energy", "knn"], "probes": [], "bootstrap": 0, "transfer": {}}


class Net(nn.Module):
    """A network of one's own: images to pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(images)).mean(dim=(2, 3))


def run(model: Any, **options: Any) -> Results:
    return evaluate(model, **{**arguments(), **FEW, **options})


def test_a_controlled_model_on_a_module_of_ones_own_is_evaluated_to_the_end(tmp_path: Any) -> None:
    """It measured everything, then failed because a module has no specification."""
    torch.manual_seed(0)
    model = ControlledModel(Net(), 5, img_size=32, taps=("conv", "encoder", "projector"))
    found = run(model)
    assert found.identity["spec"] is None and found.identity["model"] == "Net"
    assert {row["tap"] for row in found.select(kind="detection", metric="auroc")} >= {"conv", "encoder"}
    found.save(tmp_path)
    assert Results.load(tmp_path).rows == found.rows


def test_a_bare_module_is_an_encoder() -> None:
    torch.manual_seed(0)
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = run(net)
    assert [tap["name"] for tap in found.identity["taps"]] == ["encoder"] and found.identity["head_used"] is False
    assert all(row["value"] is not None for row in found.select(kind="detection", metric="auroc"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not hasattr(net, "forward_taps") and net.training


def test_a_timm_model_keeps_its_classifier() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    opened = open_model(model, 5)
    torch.testing.assert_close(opened.eval()(images), model(images))
    assert isinstance(model.get_classifier(), nn.Linear), "the caller's model is as it was"
    found = run(model)
    assert found.identity["head_used"] is True and "encoder" in [tap["name"] for tap in found.identity["taps"]]
    assert run(timm.create_model("test_resnet", num_classes=0)).identity["head_used"] is False


def test_what_is_no_model_is_one_line() -> None:
    with pytest.raises(UserError, match="must be a ControlledModel, a timm model or a module, got str"):
        open_model("resnet18", 5)
