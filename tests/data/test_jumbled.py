from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ood_nc.config import PixelConfig
from ood_nc.data import eval_transform, jumbled, open_dataset
from ood_nc.data.jumbled import JUMBLED_IMAGES, Jumbled, jumble
from ood_nc.features.cache_key import canonical_text

SETTINGS = {"input_size": (3, 24, 24), "mean": (0.5,) * 3, "std": (0.25,) * 3}


def images(n: int, shape: tuple[int, ...] = (24, 24, 3)) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(n)]


def test_every_image_is_a_jigsaw_of_its_pieces_or_its_mean_with_its_half_turn() -> None:
    kinds = set()
    for image in images(40):
        made = jumble(image)
        assert made.shape == image.shape and made.dtype == np.uint8 and (made != image).any()
        if (made == (image.astype(int) + image[::-1, ::-1]) // 2).all():
            kinds.add("mean")
            continue
        # 24 is divided by 2, 3 and 4: the pixels are the same, and the pieces of one of the grids are too.
        assert (np.sort(made, axis=None) == np.sort(image, axis=None)).all()
        kinds |= {grid for grid in (2, 3, 4) if pieces(made, grid) == pieces(image, grid)}
    assert kinds == {"mean", 2, 3, 4}


def pieces(image: np.ndarray, grid: int) -> list[bytes]:
    side = len(image) // grid
    cut = [image[y * side : (y + 1) * side, x * side : (x + 1) * side] for y in range(grid) for x in range(grid)]
    return sorted(piece.tobytes() for piece in cut)


@pytest.mark.parametrize("shape", [(7, 5, 3), (3, 3, 5), (1, 9, 3)])
def test_odd_sizes_keep_their_shape(shape: tuple[int, ...]) -> None:
    for image in images(10, shape):
        assert jumble(image).shape == shape


def test_equal_images_are_jumbled_alike_as_array_and_as_picture() -> None:
    (image,) = images(1)
    made = jumble(Image.fromarray(image))
    assert isinstance(made, Image.Image)
    np.testing.assert_array_equal(np.asarray(made), jumble(image.copy()))


def test_the_view_is_small_even_and_has_keys_of_its_own() -> None:
    dataset = open_dataset("bundled/digits-id::train").with_transform(eval_transform(SETTINGS))
    view = jumbled(dataset)
    assert len(view) == min(JUMBLED_IMAGES, len(dataset)) and view.ids[0] == dataset.ids[0]
    assert view.ids[-1] == dataset.ids[-1] and view[0][0].shape == (3, 24, 24)
    assert not (view[0][0] == dataset[0][0]).all()
    # Features of these images must never be taken for those of the images themselves.
    assert canonical_text(view.transform) == canonical_text(Jumbled(dataset.transform))
    assert canonical_text(view.transform) != canonical_text(dataset.transform)


def test_behind_a_transform_of_ones_own_images_are_read_by_the_rules_of_the_set() -> None:
    dataset = open_dataset("bundled/digits-near").with_pixels(PixelConfig(background="black"))
    view = jumbled(dataset.with_transform(np.asarray))
    assert view.pixels == dataset.pixels
    np.testing.assert_array_equal(view[0][0], jumble(np.asarray(dataset.load(0))))
