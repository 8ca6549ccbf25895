"""The recipes that ship load and build their models, with no data."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from ood_nc.cli.command import read_config, shipped_configs
from ood_nc.config import Config, load
from ood_nc.data import eval_transform, load_data, load_suite
from ood_nc.models import build_model
from ood_nc.training.optimization import create_optimizer, create_schedule

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


def large(name: str) -> bool:
    return name.startswith(("imagenet100-resnet34", "imagenet100-vgg17"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if large(name) else ()) for name in sorted(shipped_configs())],
)
def test_a_recipe_loads_and_builds_its_model(name: str) -> None:
    config = recipe(name)
    model = build_model(config.model, 100)
    assert model.tap_names[-1] == ("encoder" if config.model.projector.kind == "none" else "projector")
    assert set(config.loss.entropy_weights()) <= set(model.tap_names)
    size = model.preprocessing["input_size"][-1]
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 100)


@pytest.mark.parametrize("folder", ["graphs", "intermediate", "multilabel"])
def test_the_companions_load_by_name_and_those_on_images_build_their_models(folder: str) -> None:
    for name in shipped_configs(folder):
        config = read_config(f"{folder}/{name}", {})
        if folder == "graphs":
            assert config.graphs is not None
            continue
        model = build_model(config.model, 10)
        with torch.no_grad():
            assert model.eval()(torch.zeros(1, *model.preprocessing["input_size"])).shape == (1, 10)


ALL = sorted(name for name in shipped_configs() if name.startswith("imagenet100-"))


def published_rate(epoch: int, lr: float, *, cnn: bool) -> float:
    """The rate in an epoch, as the authors' code composes it."""
    start, end = (lr / 100, 0.0) if cnn else (1e-6, 1e-5)
    if epoch < 5:
        return start + (lr - start) * epoch / 5
    progress = (epoch - 5) / 95 if cnn else epoch / 100
    return end + (lr - end) * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize("name", ALL)
def test_rate_and_decay_are_the_published_ones(name: str) -> None:
    config, cnn = recipe(name), "vit" not in name
    lr = PAPER[name.partition("-baseline")[0]][0] * (1 if cnn else 1024 / 512)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = create_optimizer(model, config.optim, global_batch=config.train.batch_size)
    schedule = create_schedule(optimizer, config.optim, epochs=config.train.epochs, steps_per_epoch=10)
    assert schedule is not None
    for epoch in (0, 1, 4, 5, 6, 50, 99):
        schedule.step(epoch)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([published_rate(epoch, lr, cnn=cnn)] * len(rates), rel=1e-12)
    decays = {group["weight_decay"]: sum(p.ndim == 1 for p in group["params"]) for group in optimizer.param_groups}
    assert decays == ({0.05: 3} if cnn else {0.0: 3, 0.05: 0})


@pytest.mark.parametrize("name", sorted(PAPER))
def test_images_are_resized_to_256_and_cropped_to_224(name: str) -> None:
    model = build_model(recipe(name).model, 100)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    steps = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), normalize])
    assert torch.equal(eval_transform(model.preprocessing)(image), steps(image))
    augment = recipe(name).augment
    assert (augment.scale, augment.ratio, augment.hflip) == ((0.08, 1.0), (0.75, pytest.approx(4 / 3)), 0.5)
    assert not (augment.color_jitter or augment.aa or augment.reprob or augment.mixup or augment.cutmix)
    assert augment.aug_repeats == (3 if "vit" in name else 0)


@pytest.mark.parametrize("name", ALL)
def test_all_of_id_train_is_trained_on_and_both_protocols_are_measured(name: str, tmp_path) -> None:
    for split, count in (("train", 10), ("val", 2)):
        for label in "ab":
            folder = tmp_path / "imagenet100" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, len(split), ord(label))).save(folder / f"{index}.png")
    config = recipe(name, **{"data.root": str(tmp_path), "data.suite": None})
    data = load_data(config.data)
    assert data.id_val is not None and data.id_test is not None
    assert (len(data.id_train), data.id_val.ids) == (20, data.id_test.ids)
    assert config.evaluation.protocols == ["strict", "paper"]
    strict = load_data(config.data.model_copy(update={"val": None}))
    assert strict.id_val is not None and (len(strict.id_train), len(strict.id_val)) == (18, 2)


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


def test_the_page_on_recipes_names_tests_that_there_are() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "`tests/" in line]
    assert len(rows) > 10
    for row in rows:
        files = "".join((root / name).read_text(encoding="utf-8") for name in re.findall(r"`(tests/[\w/]+\.py)`", row))
        assert all(f"def {name}(" in files for name in re.findall(r"`(test_\w+)`", row)), row
