from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from ood_nc.config import ModelConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, load_foreign

NAME = "resnet18"


class Lightning(nn.Module):
    """Laid out as a LightningModule: the network and a loss with weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    ours = timm.create_model(NAME, num_classes=5).eval()
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    return {"timm": ours, "torchvision": theirs}


def write(kind: str, networks: dict[str, nn.Module], folder: Path) -> Path:
    """A checkpoint as its makers write it."""
    state = networks["torchvision" if kind == "torchvision" else "timm"].state_dict()
    path = folder / (f"{kind}.safetensors" if kind == "safetensors" else f"{kind}.pth")
    if kind == "safetensors":
        save_file(state, path)
        return path
    content: dict[str, Any] = {
        "timm": {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "metric": np.float64(0.9)},
        "torchvision": state,
        "lightning": {
            "state_dict": Lightning(networks["timm"]).state_dict(),
            "hyper_parameters": {"lr": 0.1},
            "pytorch-lightning_version": "2.5.0",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
            "epoch": 3,
        },
        "ddp": {"model": {f"module.{key}": value for key, value in state.items()}, "best": np.float32(0.9)},
        "ema": {"state_dict": {key: value * 0 for key, value in state.items()}, "state_dict_ema": state},
        "averaged": {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in state.items()}},
    }[kind]
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", ["timm", "torchvision", "lightning", "ddp", "ema", "averaged", "safetensors"])
def test_a_five_class_checkpoint_needs_its_path_alone(
    kind: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    path = write(kind, networks, tmp_path)
    model, notes = load_foreign(ModelConfig(name=NAME, checkpoint=str(path), projector={"kind": "none"}))
    assert model.num_classes == 5 and not model.head_is_fresh
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.eval()(images), networks["timm"](images))
    assert any(f"from {path}" in note for note in notes)


def config(path: Path | None = None, **settings: Any) -> ModelConfig:
    given = {"name": NAME, "projector": {"kind": "none"}, "num_classes": 5, **settings}
    return ModelConfig(**given, checkpoint=None if path is None else str(path))


def expected(name: str, **arguments: Any) -> dict[str, Any]:
    """What timm's validate.py makes of these weights."""
    model = timm.create_model(name)
    return timm.data.resolve_data_config(arguments, model=model, use_test_size=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.tv_in1k", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_images_are_prepared_as_timms_validation_script_does(name: str) -> None:
    model, notes = load_foreign(config(name=name))
    assert model.preprocessing == expected(name)
    again = ControlledModel.from_spec(model.spec())
    assert again.preprocessing == model.preprocessing and again.tap_info == model.tap_info
    assert f"as timm's validation script for {name}" in notes[-1] and "\n" not in notes[-1]


def test_resnet18_is_tested_at_a_larger_size_than_it_is_trained_at() -> None:
    assert load_foreign(config())[0].preprocessing["input_size"] == (3, 288, 288)
    assert ControlledModel(NAME, 5).preprocessing["input_size"] == (3, 224, 224)
    assert load_foreign(config(img_size=96))[0].preprocessing["input_size"] == (3, 96, 96)


def test_the_arguments_in_the_file_come_next_and_settings_first(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        img_size=64, mean=[0.5] * 3, std=None, crop_pct=1.0, interpolation="bilinear", input_size=None, lr=0.1
    )
    torch.save({"state_dict": networks["timm"].state_dict(), "args": arguments}, tmp_path / "w.pth")
    model, notes = load_foreign(config(tmp_path / "w.pth"))
    shown = model.preprocessing
    assert shown["input_size"] == (3, 64, 64) and shown["mean"] == (0.5,) * 3 and shown["crop_pct"] == 1.0
    assert shown["interpolation"] == "bilinear" and shown["std"] == expected(NAME)["std"]
    assert "from the file's arguments: mean, crop_pct, interpolation, img_size" in notes[-1]
    model, notes = load_foreign(config(tmp_path / "w.pth", input_size=[3, 32, 96], mean=[0.25], crop_pct=0.5))
    shown = model.preprocessing
    assert shown["input_size"] == (3, 32, 96) and shown["mean"] == (0.25,) * 3 and shown["crop_pct"] == 0.5
    assert "as set: input_size, mean, crop_pct" in notes[-1]


def test_arguments_of_another_program_are_passed_over(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    torch.save(
        {"model": networks["timm"].state_dict(), "args": {"mean": "imagenet", "img_size": "big"}}, tmp_path / "w"
    )
    assert load_foreign(config(tmp_path / "w"))[0].preprocessing == expected(NAME)


@pytest.mark.parametrize(("name", "channels"), [("resnet10t", 4), ("vit_tiny_patch16_224", 2), ("resnet10t", 1)])
def test_pictures_that_are_not_square_or_not_of_three_colours(name: str, channels: int) -> None:
    model, _ = load_foreign(config(name=name, input_size=[channels, 32, 64], mean=[0.5], std=[0.25] * channels))
    assert model.preprocessing["input_size"] == (channels, 32, 64)
    assert model.preprocessing["mean"] == (0.5,) * channels
    assert model(torch.zeros(2, channels, 32, 64)).shape == (2, 5)
    again = ControlledModel.from_spec(model.spec())
    assert again.preprocessing == model.preprocessing
    again.load_state_dict(model.state_dict())


def test_a_mean_for_other_channels_is_one_line() -> None:
    with pytest.raises(UserError, match="mean has 2 values for images of 3 channels"):
        load_foreign(config(mean=[0.5, 0.5]))


def test_without_weights_the_reader_is_told() -> None:
    assert "random weights: give --checkpoint FILE" in load_foreign(config())[1][0]
