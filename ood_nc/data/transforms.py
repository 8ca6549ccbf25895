"""Image to tensor, by timm: the training and the evaluation transform of a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ood_nc.config import AugmentConfig
from ood_nc.data.pixels import Pixels, pixel_rules, to_channels


class ModelTransform:
    """From a stored image to what a model takes.

    Attributes:
        pixels: how stored values become 8-bit pixels.
        channels: that the model takes.
    """

    def __init__(self, preprocessing: Mapping[str, Any], **settings: Any) -> None:
        # timm brings all its models along: a process that only reads images need not wait for them.
        from timm.data import create_transform

        self.pixels = pixel_rules(preprocessing)
        self.channels, height, width = preprocessing["input_size"]
        self._mean, self._std = (_of_channels(preprocessing[key], self.channels) for key in ("mean", "std"))
        plain = self.channels in (1, 3)
        self._steps: Callable[[Image.Image], torch.Tensor] = create_transform(
            input_size=(3, height, width),
            # The three channels of a grey image are alike, so they share the mean and the standard deviation.
            mean=self._mean * (3 // self.channels) if plain else (0.0,),
            std=self._std * (3 // self.channels) if plain else (1.0,),
            interpolation=preprocessing.get("interpolation", "bilinear"),
            **settings,
        )

    def __call__(self, image: Pixels) -> torch.Tensor:
        """The tensor (C, H, W), normalised. An image that is not in the model's form is brought to it first.

        Raises:
            PixelError: no rule covers the image.
        """
        image = to_channels(image, self.channels, self.pixels)
        if isinstance(image, np.ndarray):
            return self._channel_by_channel(image)
        if self.channels == 3:
            return self._steps(image)
        return self._steps(image.convert("L").convert("RGB"))[:1]

    def _channel_by_channel(self, image: np.ndarray) -> torch.Tensor:
        """Each channel as a grey image, all with the same random choices."""
        state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (what transforms use)
        planes = []
        for plane in np.moveaxis(image, -1, 0):
            random.setstate(state[0])
            np.random.set_state(state[1])  # noqa: NPY002
            torch.set_rng_state(state[2])
            planes.append(self._steps(Image.fromarray(np.ascontiguousarray(plane))))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self._mean, self._std))
        return (torch.cat(planes) - mean) / std


def train_transform(preprocessing: Mapping[str, Any], augment: AugmentConfig) -> ModelTransform:
    """Random crop, flips and the rest of ``augment``; without augmentation, the evaluation transform.

    Args:
        preprocessing: timm's data configuration of the model (input_size, mean, std, interpolation, ...), and the
            pixel rules under ``pixels``.
        augment: what to do to the images. Repeats, mixup and cutmix are the training loop's.
    """
    if augment.no_aug:
        return eval_transform(preprocessing)
    return ModelTransform(
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


def eval_transform(preprocessing: Mapping[str, Any]) -> ModelTransform:
    """Resize, centre crop, normalise: what the model's own data configuration says, the same for every data set.

    Example:
        >>> from PIL import Image
        >>> from ood_nc.data import eval_transform
        >>> settings = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        >>> eval_transform(settings)(Image.new("L", (40, 60), 255))[:, 0, 0]
        tensor([2., 2., 2.])
    """
    crop = {key: preprocessing[key] for key in ("crop_pct", "crop_mode") if preprocessing.get(key) is not None}
    return ModelTransform(preprocessing, is_training=False, **crop)


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A value for each channel: those that are given, or their mean where there are not as many."""
    given = tuple(float(value) for value in values)
    return given if len(given) == channels else (sum(given) / len(given),) * channels
