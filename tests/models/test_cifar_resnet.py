from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ood_nc.models import ControlledModel, list_backbones, load_weights
from ood_nc.models.cifar_resnet import PadShortcut


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_parameter_counts_are_the_papers(depth: int, millions: float) -> None:
    model = timm.create_model(f"cifar_resnet{depth}")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_registered_with_timm() -> None:
    assert list_backbones("cifar_resnet*") == [f"cifar_resnet{depth}" for depth in (20, 32, 44, 56)]


def test_shortcut_pads_half_on_each_side() -> None:
    maps = torch.randn(1, 2, 4, 4)
    padded = PadShortcut(2)(maps)
    assert torch.equal(padded[:, 1:3], maps[:, :, ::2, ::2])
    assert not padded[:, 0].any()
    assert not padded[:, 3].any()


def test_timms_protocol() -> None:
    model = timm.create_model("cifar_resnet20", num_classes=7).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    maps = model.forward_features(images)
    assert maps.shape == (2, 64, 8, 8)
    assert torch.equal(model.forward_head(maps, pre_logits=True), maps.mean((2, 3)))
    model.reset_classifier(5)
    assert model(images).shape == (2, 5)
    assert model(images).dtype == torch.float64
    model.reset_classifier(0)
    assert model(images).shape == (2, 64)
    assert isinstance(model.get_classifier(), torch.nn.Identity)


@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet32-d509ac18"])
def test_published_weights_load_strictly(shared_data: Path, name: str) -> None:
    model = ControlledModel(f"cifar_{name.partition('-')[0]}", 10, projector=None, taps=("stages", "encoder"))
    report = load_weights(model, shared_data / "weights" / f"{name}.th")
    assert report.weights == "state_dict"
    assert report.prefix == "module."
    assert "prefix 'module.' removed" in str(report)
    assert model.preprocessing["input_size"] == (3, 32, 32)


@pytest.mark.slow
def test_published_weights_classify_cifar(shared_data: Path) -> None:
    """The author's 91.8 % are for the original pixels; these are JPEG at quality 75, colour at half resolution."""
    model = ControlledModel("cifar_resnet20", 10, projector=None).eval()
    load_weights(model, shared_data / "weights" / "resnet20-12fca82f.th")
    mean, std = (torch.tensor(model.preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    images, labels = [], []
    with tarfile.open(shared_data / "cifar10_jpg.tar.xz") as archive:
        for member in archive:
            if member.name.startswith("test/") and member.name.endswith("7.jpg"):
                pixels = np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
                images.append((torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std)
                labels.append(member.name.split("/")[1])
            if member.name.startswith("train/"):
                break
    classes = sorted(set(labels))
    with torch.no_grad():
        predicted = model(torch.stack(images)).argmax(1)
    accuracy = np.mean([classes[p] == label for p, label in zip(predicted.tolist(), labels, strict=True)])
    assert len(images) == 1000
    assert accuracy > 0.77
