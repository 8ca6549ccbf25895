"""What is the caller's is as it was after every public entry point, whether it returns or raises."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import sklearn  # noqa: F401  sets variables of its own when first imported
import torch
from torch import nn

from ood_nc import evaluate
from ood_nc.collapse import ClassStatistics, measure
from ood_nc.data import ImageDataset, eval_transform, open_dataset
from ood_nc.deployment import fit_detector
from ood_nc.detection import Network, create_detector, list_detectors
from ood_nc.features import BankStore, ImageBatches, extract
from ood_nc.losses import nearest_neighbor_entropy
from ood_nc.models import ControlledModel, weights_hash
from ood_nc.transfer import knn_probe, linear_probe, nearest_mean_probe


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that belongs to the process or to the model and that a measurement has no business to change."""
    found: dict[str, Any] = {
        "torch's generator": torch.get_rng_state().tolist(),
        "NumPy's generator": str(np.random.get_state()),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), faiss.omp_get_max_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "environment": [f"{key}={value}" for key, value in sorted(os.environ.items())],
        "signals": (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)),
        "switch interval": sys.getswitchinterval(),
        "folder": str(Path.cwd()),
    }
    for name, layer in model.named_modules():
        found[f"mode of {name}"] = layer.training
        found[f"hooks of {name}"] = [len(layer._forward_hooks), len(layer._forward_pre_hooks)]
        found[f"backward hooks of {name}"] = [len(layer._backward_hooks), len(layer._backward_pre_hooks)]
    for name, value in model.named_parameters():
        found[f"flag of {name}"] = (value.requires_grad, value.grad is None, value.dtype, value.device)
    return {**found, "weights": weights_hash(model)}


@pytest.fixture
def model() -> ControlledModel:
    """In train mode, one norm frozen, one layer without gradients."""
    torch.manual_seed(0)
    model = ControlledModel("cifar_resnet20", 5, taps=("layer2", "encoder", "projector"), img_size=16)
    model.class_names, model.head_is_fresh = tuple("01234"), False
    model.train()
    model.backbone.bn1.eval()
    model.backbone.layer1.requires_grad_(False)
    return model


def digits(part: str, count: int = 40) -> ImageDataset:
    whole = open_dataset(f"bundled/digits-id::{part}")
    return whole.subset(np.arange(count))


def ready(model: ControlledModel, part: str = "train") -> ImageDataset:
    return digits(part).with_transform(eval_transform(model.preprocessing))


def _evaluate(model: ControlledModel, tmp_path: Path) -> Any:
    return evaluate(
        model,
        id=digits("test"),
        id_train=digits("train"),
        ood={"near": open_dataset("bundled/digits-near").subset(np.arange(20))},
        transfer={"near": open_dataset("bundled/digits-near").subset(np.arange(40))},
        detectors=["knn", "msp", "react", "mc_dropout"],
        bootstrap=5,
        device="cpu",
        cache=tmp_path / "features",
    )


def _fit_and_judge(model: ControlledModel, tmp_path: Path) -> None:
    detector = fit_detector(model, digits("train"), digits("test"), detectors=["knn", "odin"], choose=False)
    detector(torch.zeros(2, 3, 16, 16))
    detector.save(tmp_path / "d.safetensors")
    type(detector).load(tmp_path / "d.safetensors", backbone=model)


def _input_detectors(model: ControlledModel, tmp_path: Path) -> None:
    batches = ImageBatches(ready(model), batch_size=20)
    for name in list_detectors(kind="input"):
        create_detector(name).fit(Network(model), batches).score(torch.randn(2, 3, 16, 16, generator=torch.Generator()))


def _numbers(model: ControlledModel, tmp_path: Path) -> None:
    features = torch.randn(60, 8, generator=torch.Generator())
    labels = torch.arange(60) % 3
    measure(ClassStatistics(3, 8).update(features, labels), features=features, labels=labels)
    nearest_neighbor_entropy(features)
    for probe in (linear_probe, knn_probe, nearest_mean_probe):
        probe(features, labels, features, labels)
    for name in ("knn", "vim", "gmm", "mahalanobis"):
        if name in list_detectors():
            create_detector(name).fit(features, labels, head=(torch.ones(3, 8), torch.zeros(3))).score(features)


ENTRY_POINTS: dict[str, Callable[[ControlledModel, Path], Any]] = {
    "forward": lambda model, _: model.eval().forward_taps(torch.zeros(2, 3, 16, 16)),
    "extract": lambda model, _: extract(model, ready(model), batch_size=16),
    "a bank, made and read": lambda model, folder: [BankStore(folder).get(model, ready(model)) for _ in range(2)],
    "evaluate": _evaluate,
    "fit_detector and Detector": _fit_and_judge,
    "input detectors": _input_detectors,
    "measures, losses, probes, detectors": _numbers,
}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_nothing_of_the_callers_changes(entry: str, model: ControlledModel, tmp_path: Path) -> None:
    if entry == "forward":
        model.eval()
    before = snapshot(model)
    ENTRY_POINTS[entry](model, tmp_path)
    after = snapshot(model)
    assert {key: value for key, value in after.items() if value != before[key]} == {}


@pytest.mark.parametrize("entry", ["extract", "evaluate", "fit_detector and Detector", "input detectors"])
def test_nothing_of_the_callers_changes_when_a_layer_raises(
    entry: str, model: ControlledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("in the middle of a pass")

    monkeypatch.setattr(model.backbone.layer3[0], "forward", fail)
    before = snapshot(model)
    with pytest.raises(ArithmeticError):
        ENTRY_POINTS[entry](model, tmp_path)
    after = snapshot(model)
    assert {key: value for key, value in after.items() if value != before[key]} == {}
