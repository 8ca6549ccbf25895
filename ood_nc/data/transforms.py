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
from ood_nc.errors import UserError


class ModelTransform:
    """From a stored image to what a model takes.

    Args:
        preprocessing: timm's data configuration of the model, and the pixel rules under ``pixels``.
        by_batch: leave images at 8 bits, to be normalised a batch at a time: that is faster, and a batch is a quarter
            as large on its way from a loading process or to a GPU. Erased ones come normalised in any case.
        reprob: probability of random erasing.
        settings: further arguments of timm's ``create_transform``.

    Attributes:
        pixels: how stored values become 8-bit pixels.
        channels: that the model takes.
    """

    def __init__(
        self, preprocessing: Mapping[str, Any], *, by_batch: bool = False, reprob: float = 0.0, **settings: Any
    ) -> None:
        # timm brings all its models along: a process that only reads images need not wait for them.
        from timm.data import create_transform
        from timm.data.random_erasing import RandomErasing

        self.pixels = pixel_rules(preprocessing)
        self.channels, height, width = preprocessing["input_size"]
        mean, std = (_of_channels(preprocessing[key], self.channels) for key in ("mean", "std"))
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._by_batch = by_batch
        self._erase = RandomErasing(reprob, device="cpu") if reprob > 0 else None
        self._steps: Callable[[Image.Image], torch.Tensor] = create_transform(
            input_size=(3, height, width),
            normalize=False,
            # What auto-augmentation fills with. Grey images have three channels on their way.
            mean=mean * (3 // self.channels) if self.channels in (1, 3) else (0.0,),
            interpolation=preprocessing.get("interpolation", "bilinear"),
            **settings,
        )

    def __call__(self, image: Pixels) -> torch.Tensor:
        """The tensor (C, H, W). An image that is not in the model's form is brought to it first.

        Raises:
            PixelError: no rule covers the image.
        """
        values = self._eight_bits(to_channels(image, self.channels, self.pixels))
        if self._erase is not None:
            return self._erase(self.normalize(values))
        return values if self._by_batch else self.normalize(values)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Images of 8 bits (..., C, H, W) as the model takes them; those that are so already stay."""
        if images.is_floating_point():
            return images
        values = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return values.sub_(self._mean.to(values.device)).div_(self._std.to(values.device))

    def _eight_bits(self, image: Pixels) -> torch.Tensor:
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
        return torch.cat(planes)


def train_transform(
    preprocessing: Mapping[str, Any], augment: AugmentConfig, *, by_batch: bool = False
) -> ModelTransform:
    """Random crop, flips and the rest of ``augment``; without augmentation, the evaluation transform.

    Args:
        preprocessing: timm's data configuration of the model (input_size, mean, std, interpolation, ...), and the
            pixel rules under ``pixels``.
        augment: what to do to the images. Repeats, mixup and cutmix are the training loop's.
        by_batch: see `ModelTransform`.

    Example:
        >>> from PIL import Image
        >>> from ood_nc.config import AugmentConfig
        >>> how = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        >>> how |= {"interpolation": "bilinear", "crop_pct": 1.0}
        >>> train_transform(how, AugmentConfig())(Image.new("RGB", (48, 40))).shape
        torch.Size([3, 32, 32])
    """
    if augment.no_aug:
        return eval_transform(preprocessing, by_batch=by_batch)
    try:
        return ModelTransform(
            preprocessing,
            by_batch=by_batch,
            reprob=augment.reprob,
            is_training=True,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            vflip=augment.vflip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.aa,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:  # timm's words for a policy that it lacks
        if augment.aa is None:
            raise
        why = " ".join(str(error).split())[:100]
        raise UserError(
            f"augment.aa is {augment.aa[:60]!r}, which is no policy of timm ({why}): see rand-m9."
        ) from None


def eval_transform(preprocessing: Mapping[str, Any], *, by_batch: bool = False) -> ModelTransform:
    """Resize, centre crop, normalise: what the model's own data configuration says, the same for every data set.

    Example:
        >>> from PIL import Image
        >>> from ood_nc.data import eval_transform
        >>> settings = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        >>> eval_transform(settings)(Image.new("L", (40, 60), 255))[:, 0, 0]
        tensor([2., 2., 2.])
    """
    crop = {key: preprocessing[key] for key in ("crop_pct", "crop_mode") if preprocessing.get(key) is not None}
    return ModelTransform(preprocessing, by_batch=by_batch, is_training=False, **crop)


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A value for each channel: those that are given, or their mean where there are not as many."""
    given = tuple(float(value) for value in values)
    return given if len(given) == channels else (sum(given) / len(given),) * channels
