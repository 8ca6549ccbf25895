"""What a detector takes in Python: all that has one meaning, and one line for the rest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.config import PixelConfig
from ood_nc.deployment import Detector
from ood_nc.errors import UserError
from tests.deployment.conftest import image_tensor, near


def test_images_beyond_the_limit_are_our_own_error(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near().load(0).save(tmp_path / "large.png")
    monkeypatch.setattr(fitted.transform, "pixels", PixelConfig(max_pixels=5))
    with pytest.raises(UserError, match=r"Cannot read the image .*large\.png .*the limit is"):
        fitted(tmp_path / "large.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 5)
    with pytest.raises(UserError, match=r"Cannot read the image .*large\.png .*the limit is"):
        fitted(tmp_path / "large.png")


def test_kinds_of_images(fitted: Detector, tmp_path: Path) -> None:
    image = near().load(0).convert("RGB")
    image.save(tmp_path / "i.png")
    pixels = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    prepared = image_tensor(fitted.model, near(), 0)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    assert (pixels == grey[..., None]).all(), "all of these show one image"
    expected = fitted(image).scores
    given: dict[str, Any] = {
        "a path": tmp_path / "i.png",
        "text": str(tmp_path / "i.png"),
        "bytes": encoded.getvalue(),
        "(H, W, 3)": pixels,
        "(3, H, W)": np.moveaxis(pixels, -1, 0),
        "(H, W)": grey,
        "(H, W, 1)": grey[..., None],
        "(1, H, W)": grey[None],
        "(B, H, W, C)": pixels[None],
        "floats in [0, 1]": pixels / 255,
        "a list": [image],
        "an array of paths": np.array([str(tmp_path / "i.png")]),
        "an array of objects": np.array([tmp_path / "i.png"]),
        "a generator": (part for part in [image]),
        "a tensor of pixels": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        "a batch of pixels": torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None],
        "a prepared image": prepared,
        "a prepared batch": prepared[None],
        "a list of prepared images": [prepared],
        "doubles": prepared.double(),
    }
    for kind, images in given.items():
        found = fitted(images).scores
        assert found.shape == (1,), kind
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No image was given"),
        (np.zeros((0, 8, 8, 3), np.uint8), "No image was given"),
        (torch.zeros(0, 3, 16, 16), "No image was given"),
        (None, "got NoneType"),
        (7, "got int"),
        ({"image": 1}, "got dict"),
        (io.BytesIO(b"a\nb"), "encoded bytes, .* got BytesIO"),
        (bytearray(b"ab"), "got bytearray"),
        ([None], r"image 0 \(NoneType\) \(expected a path"),
        (np.zeros((0, 4, 3), np.uint8), "it is empty"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\), expected"),
        (np.zeros(4, np.uint8), r"got the shape \(4,\)"),
        (np.full((4, 4), 7.0), "its values go from 7 to 7, not 0 to 1"),
        (np.zeros((4, 4), complex), "complex128, which has no rule"),
        (np.array([["a", "b"]]), "has no rule"),
        (np.array([[None]]), "has no rule"),
        (b"no image", r"image 0 \(bytes\)"),
        (b"", r"image 0 \(bytes\)"),
        ("a\0b.png", "null byte"),
        (torch.zeros(2, 3, 8, 8), r"\(B, 3, 16, 16\), got \(2, 3, 8, 8\)"),
        (torch.zeros(2, 1, 16, 16), r"\(B, 3, 16, 16\)"),
        (torch.full((1, 3, 16, 16), float("nan")), "NaN or infinity"),
        (torch.zeros(16), r"shape \(16,\)"),
    ],
)
def test_what_has_no_meaning_is_one_line(given: Any, message: str, fitted: Detector) -> None:
    with pytest.raises(UserError, match=message) as found:
        fitted(given)
    assert "\n" not in str(found.value)


def test_an_image_that_cannot_be_read_is_a_row_when_asked(fitted: Detector, tmp_path: Path) -> None:
    image = near().load(0)
    (tmp_path / "broken.png").write_bytes(b"x")
    given = [image, tmp_path / "broken.png", tmp_path / "nosuch.png", image]
    with pytest.raises(UserError, match=r"Cannot read the image .*broken\.png"):
        fitted(given)
    verdict = fitted(given, errors="row")
    assert [reason is None for reason in verdict.errors] == [True, False, False, True]
    assert "no such file" in str(verdict.errors[2])
    assert torch.equal(verdict.scores[[0, 3]], fitted([image, image]).scores)
    assert verdict.scores.isnan().tolist() == verdict.p_values.isnan().tolist() == [False, True, True, False]
    assert verdict.accepted[1:3].tolist() == [False, False]
    assert verdict.predicted_names[1:3] == ["", ""]
    alone = fitted(tmp_path / "broken.png", errors="row")
    assert len(alone) == 1 and alone.errors[0] is not None
    with pytest.raises(UserError, match="errors must be"):
        fitted(given, errors="ignore")  # type: ignore[arg-type]
