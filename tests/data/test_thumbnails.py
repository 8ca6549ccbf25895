from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ood_nc.data.thumbnails import THUMBNAIL, thumbnail


def opened(address: str) -> Image.Image:
    head, _, body = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(("size", "shown"), [((8, 8), (56, 56)), ((40, 20), (40, 20)), ((560, 112), (56, 11))])
def test_no_side_is_longer_and_small_images_grow_by_whole_factors(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture = opened(thumbnail(Image.new("RGB", size, (200, 30, 30))))
    assert picture.size == shown and max(picture.size) <= THUMBNAIL
    np.testing.assert_allclose(np.asarray(picture).reshape(-1, 3).mean(axis=0), (200, 30, 30), atol=3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_is_shown(mode: str) -> None:
    assert opened(thumbnail(Image.new(mode, (20, 20)))).mode == "RGB"


def test_another_size_is_for_the_asking() -> None:
    assert opened(thumbnail(Image.new("RGB", (400, 300)), 320)).size == (320, 240)


def test_many_channels_are_shown_by_their_mean() -> None:
    values = np.zeros((16, 16, 5), dtype=np.uint8)
    values[..., 0] = 250
    assert np.asarray(opened(thumbnail(values))).mean() == pytest.approx(50, abs=1)
