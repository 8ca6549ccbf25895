"""The adapter against its formula, and its place in a network."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.models import Adapter, ControlledModel, build_model, load_weights

TAPS = ("stages", "encoder", "adapter", "projector")


@pytest.fixture(scope="module")
def pair() -> tuple[ControlledModel, ControlledModel]:
    """A network, and the same with an adapter of width 4 that no longer is as it started."""
    models = []
    for adapter in (0, 4):
        torch.manual_seed(0)
        models.append(ControlledModel("test_resnet", 3, taps=TAPS, img_size=32, adapter=adapter).eval())
    torch.nn.init.normal_(models[1].adapter.up.weight, generator=torch.Generator().manual_seed(1))
    return models[0], models[1]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_it_is_its_formula() -> None:
    torch.manual_seed(0)
    adapter, rows = Adapter(6, 2).double(), torch.randn(5, 6).double()
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight)
    state = adapter.state_dict()
    for row, found in zip(rows, adapter(rows), strict=True):
        centred = row - row.sum() / 6
        normed = centred / (centred.square().sum() / 6 + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]
        inner = state["down.weight"] @ normed + state["down.bias"]
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        torch.testing.assert_close(found, row + state["up.weight"] @ inner + state["up.bias"])


def test_at_first_it_changes_nothing_and_then_learns() -> None:
    adapter, rows = Adapter(64, 8), torch.randn(5, 64)
    assert torch.equal(adapter(rows), rows)
    assert sum(weight.numel() for weight in adapter.parameters()) == 2 * 64 * 8 + 3 * 64 + 8
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(2):  # what stands behind weights of 0 learns from the second step on
        optimizer.zero_grad()
        adapter(rows).square().sum().backward()
        optimizer.step()
    assert all(float(weight.grad.abs().max()) > 0 for weight in adapter.parameters())


def test_its_place_is_between_encoder_and_projector(
    pair: tuple[ControlledModel, ControlledModel], images: torch.Tensor
) -> None:
    (plain, model), names = pair, ["encoder", "adapter", "projector"]
    (_, before), (logits, taps) = plain.forward_taps(images), model.forward_taps(images)
    assert list(taps)[-3:] == names and list(before) == [name for name in taps if name != "adapter"]
    assert [model.tap_info[name].depth for name in names] == [len(taps) - 3, len(taps) - 2, len(taps) - 1]
    assert model.tap_info["adapter"].dim == model.encoder_dim and model.head_tap == "projector"
    assert all(torch.equal(taps[name], before[name]) for name in before if name != "projector")
    assert not torch.allclose(taps["adapter"], taps["encoder"])
    torch.testing.assert_close(taps["adapter"], model.adapter(taps["encoder"]))
    torch.testing.assert_close(taps["projector"], model.projector(taps["adapter"]))
    torch.testing.assert_close(logits, model.head(taps["projector"]))
    assert torch.equal(model(images), logits)


def test_new_it_leaves_the_logits_as_they_are(images: torch.Tensor) -> None:
    made = []
    for adapter in (0, 4):
        torch.manual_seed(0)
        made.append(ControlledModel("test_resnet", 3, img_size=32, adapter=adapter).eval()(images))
    assert torch.equal(*made)


def test_specification_and_weights_hold_it(
    pair: tuple[ControlledModel, ControlledModel], images: torch.Tensor, tmp_path
) -> None:
    plain, model = pair
    again = ControlledModel.from_spec(json.loads(json.dumps(model.spec())))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    load_weights(again, tmp_path / "model.safetensors")
    assert again.tap_names == model.tap_names and torch.equal(again.eval()(images), model(images))
    old = {key: value for key, value in plain.spec().items() if key != "adapter"}  # a file from before it
    assert ControlledModel.from_spec(old).adapter is None
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"missing .*adapter"):
        load_weights(again, tmp_path / "plain.safetensors")


def test_weights_of_a_plain_network_leave_it_as_it_was_made(pair: tuple[ControlledModel, ControlledModel], tmp_path):
    _, model = pair
    found = {name: value + 1 for name, value in model.backbone.state_dict().items() if value.is_floating_point()}
    save_file(found, tmp_path / "backbone.safetensors")
    adapter = {name: value.clone() for name, value in model.adapter.state_dict().items()}
    new = ControlledModel.from_spec(model.spec())
    new.adapter.load_state_dict(adapter)
    report = load_weights(new, tmp_path / "backbone.safetensors", new_head=True)
    assert report.fresh == ("head", "adapter", "projector")
    assert all(torch.equal(value, adapter[name]) for name, value in new.adapter.state_dict().items())
    name = next(iter(found))
    assert torch.equal(new.backbone.state_dict()[name], found[name])


def test_a_configuration_names_its_width() -> None:
    model = build_model(load(None, {"model.name": "test_resnet", "model.projector.adapter": 4}).model, 3)
    assert model.adapter.down.weight.shape == (4, 96) and model.tap_names[-2:] == ("adapter", "projector")
    assert build_model(load(None, {"model.name": "test_resnet"}).model, 3).adapter is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.projector.adapter": -1}, "model.projector.adapter"),
        ({"model.projector.adapter": "wide"}, "model.projector.adapter"),
        ({"model.projector.adapter": 8, "model.projector.kind": "none"}, "adapter is 8, but kind is none"),
    ],
)
def test_a_width_that_cannot_be_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(None, changes)
    assert "\n" not in str(caught.value)


def test_mistakes_in_code_are_one_line() -> None:
    with pytest.raises(UserError, match="at least 1, or 0 for none, got -2"):
        ControlledModel("test_resnet", 3, adapter=-2)
    with pytest.raises(UserError, match="in front of a projector"):
        ControlledModel("test_resnet", 3, adapter=2, projector=None)
