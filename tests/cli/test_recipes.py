"""The recipes that ship load and build their models, with no data."""

from __future__ import annotations

import pytest
import torch

from ood_nc.cli.command import shipped_configs
from ood_nc.config import Config, load
from ood_nc.data import load_suite
from ood_nc.models import build_model

# Parameters of the baseline with 100 classes, in millions (Harun et al., ICML 2025; timm).
PAPER = {
    "imagenet100-vgg17": (0.006, 20.1),
    "imagenet100-resnet18": (0.01, 11.2),
    "imagenet100-resnet34": (0.01, 21.3),
    "imagenet100-vit-t": (8e-4, 5.5),
    "imagenet100-vit-s": (4e-4, 21.7),
}


def recipe(name: str, **overrides: object) -> Config:
    return load(shipped_configs()[name], overrides)


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_recipe_loads_and_builds_its_model(name: str) -> None:
    config = recipe(name)
    model = build_model(config.model, 100)
    assert model.tap_names[-1] == ("encoder" if config.model.projector.kind == "none" else "projector")
    assert set(config.loss.entropy_weights()) <= set(model.tap_names)
    size = model.preprocessing["input_size"][-1]
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 100)


def differing(first: Config, second: Config) -> set[str]:
    a, b = first.model_dump(), second.model_dump()
    return {
        f"{part}.{key}" for part in a if isinstance(a[part], dict) for key in a[part] if a[part][key] != b[part][key]
    }


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_baseline_differs_from_ours_in_what_it_is_named_for(name: str) -> None:
    method = {"model.projector", "model.taps", "loss.entropy_weight"}
    ours, baseline, cnn = recipe(name), recipe(f"{name}-baseline"), "vit" not in name
    scope = {"loss.entropy_scope"} if not cnn else set()
    assert differing(ours, baseline) == method | scope | ({"model.normalization"} if cnn else set())
    assert baseline.model.normalization == "native" and not baseline.loss.entropy_weights()
    assert (f"{name}-baseline_ws" in shipped_configs()) == cnn
    if cnn:
        assert differing(ours, recipe(f"{name}-baseline_ws")) == method
        assert ours.optim.warmup_prefix and ours.model.head_init == "xavier_uniform"
    assert ours.train.batch_size == (512 if cnn else 1024)
    size = build_model(ours.model, 100).preprocessing
    assert (size["input_size"], size["crop_pct"], size["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_recipes_of_the_paper(name: str) -> None:
    config, (lr, millions) = recipe(name), PAPER[name]
    assert (config.optim.opt, config.optim.lr, config.optim.weight_decay) == ("adamw", lr, 0.05)
    assert (config.train.epochs, config.optim.warmup_epochs, config.loss.smoothing) == (100, 5, 0.1)
    assert config.loss.entropy_weights() == {"encoder": 0.05}
    baseline = recipe(name, **{"model.projector.kind": "none", "model.normalization": "native"})
    count = sum(parameter.numel() for parameter in build_model(baseline.model, 100).parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1)
    suite = load_suite(config.data.suite or "", "/data")
    assert len(suite["ood"]) == len(suite["transfer"]) == 8
