"""Image to tensor, by timm: the training and the evaluation transform of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

from ood_nc.config import AugmentConfig
from ood_nc.errors import UserError

Transform = Callable[[Image.Image], torch.Tensor]


def train_transform(preprocessing: Mapping[str, Any], augment: AugmentConfig) -> Transform:
    """Random crop, flips and the rest of ``augment``; without augmentation, the evaluation transform.

    Args:
        preprocessing: timm's data configuration of the model (input_size, mean, std, interpolation, ...).
        augment: what to do to the images. Repeats, mixup and cutmix are the training loop's.
    """
    if augment.no_aug:
        return eval_transform(preprocessing)
    return _build(
        preprocessing,
        is_training=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.aa,
        re_prob=augment.reprob,
    )


def eval_transform(preprocessing: Mapping[str, Any]) -> Transform:
    """Resize, centre crop, normalise: what the model's own data configuration says, the same for every data set."""
    crop = {key: preprocessing[key] for key in ("crop_pct", "crop_mode") if preprocessing.get(key) is not None}
    return _build(preprocessing, is_training=False, **crop)


def _build(preprocessing: Mapping[str, Any], **settings: Any) -> Transform:
    # timm brings all its models along: a process that only reads images need not wait for them.
    from timm.data import create_transform
    from torchvision.transforms import Compose, Grayscale

    channels, height, width = preprocessing["input_size"]
    if channels not in (1, 3):
        raise UserError(f"Images have 1 or 3 channels; the model takes {channels} (model.in_chans).")
    mean, std = (tuple(float(value) for value in preprocessing[key]) for key in ("mean", "std"))
    if channels == 1:
        # The three channels of a grey image are alike, so they share the mean and the standard deviation.
        mean, std = ((sum(values) / len(values),) * 3 for values in (mean, std))
    transform = create_transform(
        input_size=(3, height, width),
        mean=mean,
        std=std,
        interpolation=preprocessing.get("interpolation", "bilinear"),
        **settings,
    )
    return transform if channels == 3 else Compose([Grayscale(3), *transform.transforms, first_channel])


def first_channel(image: torch.Tensor) -> torch.Tensor:
    """Of an image (3, H, W) of three equal channels, one (1, H, W)."""
    return image[:1]
