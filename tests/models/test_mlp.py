from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel


def test_it_is_linear_maps_norms_and_relus_in_a_row() -> None:
    model = timm.create_model("mlp10", num_classes=7, in_chans=1, img_size=8, depth=3, width=16).eval()
    images = torch.randn(5, 1, 8, 8)
    rows = images.flatten(1)
    for index in (1, 2, 3):
        state = {k.removeprefix(f"layer{index}."): v for k, v in model.state_dict().items()}
        norm = state["norm.running_mean"], state["norm.running_var"], state["norm.weight"], state["norm.bias"]
        rows = F.relu(F.batch_norm(F.linear(rows, state["linear.weight"]), *norm))
    torch.testing.assert_close(model.forward_features(images), rows)
    torch.testing.assert_close(model(images), F.linear(rows, model.fc.weight, model.fc.bias))
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_the_papers_has_ten_of_1024() -> None:
    with torch.device("meta"):
        model = timm.create_model("mlp10")
    assert [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)] == (
        [(1024, 3072)] + [(1024, 1024)] * 9 + [(10, 1024)]
    )


def test_tied_layers_are_one_and_a_checkpoint_keeps_them_so(tmp_path) -> None:
    options = {"depth": 4, "width": 8, "tied_from": 2}
    model = ControlledModel("mlp10", 3, in_chans=1, img_size=4, taps=["encoder"], backbone_options=options)
    assert model.backbone.layer2.linear is model.backbone.layer4.linear
    assert model.backbone.layer1.linear is not model.backbone.layer2.linear
    again = ControlledModel.from_spec(model.spec())
    again.load_state_dict(model.state_dict())
    again.eval(), model.eval()
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("tied_from", [1, 5])
def test_what_cannot_be_tied_is_refused(tied_from: int) -> None:
    with pytest.raises(UserError, match="tied_from must be between 2 and the depth of 4"):
        ControlledModel("mlp10", 3, img_size=4, backbone_options={"depth": 4, "width": 8, "tied_from": tied_from})
