from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import PILToTensor

from ood_nc.config import PixelConfig
from ood_nc.data import ImageDataset, open_dataset, scan
from ood_nc.data.pixels import PixelError, image_formats, image_suffixes, read_image, recognise, to_rgb
from ood_nc.data.stores import ArrayStore
from ood_nc.data.transforms import eval_transform

RAMP = np.arange(64).reshape(8, 8)


def stored(image: Image.Image, kind: str = "tiff", **settings: object) -> Image.Image:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return recognise(content.getvalue())


def grey(image: Image.Image | np.ndarray, pixels: PixelConfig | None = None) -> np.ndarray:
    values = np.asarray(to_rgb(image, pixels or PixelConfig()))
    assert values.dtype == np.uint8 and values.shape[2] == 3
    assert (values == values[..., :1]).all()
    return values[..., 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA"])
def test_eight_bits_are_what_pillow_makes_of_them(mode):
    image = Image.fromarray((RAMP * 4).astype(np.uint8)).convert("RGB").convert(mode)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_sixteen_bits_are_scaled_by_all_they_can_hold(kind):
    values = (RAMP * 1040).astype(np.uint16)
    expected = np.rint(values / 65535 * 255)
    for image in (stored(Image.fromarray(values), kind), values):
        assert np.array_equal(grey(image), expected)


def test_sixteen_bit_portable_greymap():
    content = b"P5 8 8 65535\n" + (RAMP * 1040).astype(">u2").tobytes()
    assert np.array_equal(grey(recognise(content)), np.rint(RAMP * 1040 / 65535 * 255))


def test_a_stated_range_is_black_to_white_and_clips():
    values = (RAMP * 65).astype(np.uint16)
    assert np.array_equal(grey(values, PixelConfig(value_range=(0, 4095))), np.rint(RAMP * 65 / 4095 * 255))
    for dtype in (np.int32, np.float32):
        image = stored(Image.fromarray((RAMP * 100 - 1000).astype(dtype)))
        expected = np.rint((RAMP * 100.0 - 1000) / 2000 * 255).clip(0, 255)
        assert np.array_equal(grey(image, PixelConfig(value_range=(0, 2000))), expected)


def test_floating_point_from_0_to_1_is_scaled():
    values = (RAMP / 63 * 0.749).astype(np.float32)
    for image in (stored(Image.fromarray(values)), values, values.astype(np.float64)):
        assert np.array_equal(grey(image), np.rint(values.astype(np.float64) * 255))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((RAMP * 48.5).astype(np.float32), "its values go from 0 to 3055.5, not 0 to 1: .*value-range"),
        ((RAMP / 63 - 0.5).astype(np.float32), "its values go from -0.5 to 0.5"),
        (np.array([[256, -5]], np.int32), "its values are int32, not unsigned of 16 bits: .*value-range"),
        (np.array([[1, 200]], np.int32), "its values are int32"),
        (np.array([[0.5, np.nan]], np.float32), "NaN or infinite"),
        (np.array([[0.5, np.inf]], np.float32), "NaN or infinite"),
    ],
)
def test_what_has_no_rule_is_refused_by_file_with_the_reason(values, message, folder):
    content = io.BytesIO()
    Image.fromarray(values).save(content, "tiff")
    with pytest.raises(PixelError, match=message):
        to_rgb(values)
    dataset = open_dataset(str(folder({"a/x.tif": content.getvalue()})))
    with pytest.raises(ValueError, match=message) as error:
        dataset[0]
    ((name, why),) = scan(dataset).broken
    assert name == "a/x.tif" and why in str(error.value)


def test_complex_and_oddly_shaped_arrays_are_refused():
    for values, message in ((np.zeros((2, 2), complex), "complex128"), (np.zeros((2, 2, 5), np.uint8), r"\(2, 2, 5\)")):
        with pytest.raises(PixelError, match=message):
            to_rgb(values)


@pytest.mark.parametrize(("background", "shown"), [("white", 255), ("black", 0), ("ignore", 10)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour"])
def test_transparent_pixels_show_the_background(kind, background, shown):
    if kind in ("RGBA", "LA"):
        image = Image.new("RGBA", (2, 1), (10, 10, 10, 0)).convert(kind)
        image.putpixel((1, 0), (90, 255) if kind == "LA" else (90, 90, 90, 255))
        image = stored(image, "png")
    else:
        image = Image.new("L", (2, 1), 10)
        image.putpixel((1, 0), 90)
        image = (
            stored(image.convert("P"), "png", transparency=10)
            if kind == "palette"
            else stored(image.convert("RGB"), "png", transparency=(10, 10, 10))
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grey(image, PixelConfig(background=background))[0].tolist() == [shown, 90]


def test_half_transparent_is_mixed():
    assert grey(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0, 0] == round(255 * (1 - 128 / 255))


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(kind, orientation):
    from PIL import ImageOps

    image = Image.fromarray(np.kron(np.array([[0, 80], [160, 255]], np.uint8), np.ones((16, 24), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100, **({"lossless": True} if kind == "webp" else {})}
    image = image.convert("RGB")
    content = io.BytesIO()
    image.save(content, kind, exif=exif, **settings)
    with Image.open(io.BytesIO(content.getvalue())) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("L")).astype(int)
    found = np.asarray(to_rgb(recognise(content.getvalue())).convert("L")).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 2
    assert to_rgb(to_rgb(recognise(content.getvalue()))).size == found.shape[::-1], "not turned twice"
    if kind != "tiff":  # Pillow turns those itself
        lying = to_rgb(recognise(content.getvalue()), PixelConfig(orientation=False))
        assert lying.size == image.size


def test_a_model_sees_a_photograph_turned_once(folder):
    image = Image.fromarray(np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[:, None], 8, axis=1)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "png", exif=exif)
    preprocessing = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}
    dataset = open_dataset(str(folder({"a/1.png": content.getvalue()})))
    seen = dataset.with_transform(eval_transform(preprocessing))[0][0][0] * 255
    assert np.array_equal(np.rint(seen.numpy()), np.rot90(np.asarray(image)[..., 0], -1))


def test_sixteen_bit_photographs_stand_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = stored(Image.fromarray((RAMP[:4] * 1000).astype(np.uint16)), "png", exif=exif)
    assert np.array_equal(grey(image), np.rot90(np.rint(RAMP[:4] * 1000 / 65535 * 255), -1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_tiff_by_its_path_stands_upright_as_by_its_bytes(mode, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (8, 5), dtype=np.uint8)
    image = (
        Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert("RGB")
    )
    remarks = Image.Exif()
    remarks[0x0112] = 6
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "turned.tif", exif=remarks)
    found = read_image(tmp_path / "turned.tif")
    assert (grey(found) == np.rot90(values, -1)).all()
    assert (np.asarray(read_image((tmp_path / "turned.tif").read_bytes())) == np.asarray(found)).all()


def test_the_limit_of_size_is_ours_and_can_be_moved(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    content = io.BytesIO()
    Image.new("L", (40, 50)).save(content, "png")
    dataset = open_dataset(str(folder({"a/large.png": content.getvalue()})))
    small = dataset.with_pixels(PixelConfig(max_pixels=900))
    with pytest.raises(ValueError, match=r"cannot read a/large.png \(0.0 megapixels, the limit is 0.0 \(--max-pixels"):
        small[0]
    assert scan(small).broken[0][0] == "a/large.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**9)
    with pytest.raises(ValueError, match="the limit is"):
        small[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert dataset.with_pixels(PixelConfig(max_pixels=2000)).load(0).size == (40, 50)


def test_every_format_that_pillow_writes_and_reads_is_read(tmp_path):
    Image.init()
    names = set()
    for suffix, kind in Image.registered_extensions().items():
        if kind in Image.SAVE and kind in Image.OPEN and suffix in image_suffixes():
            mode = "1" if kind in ("MSP", "XBM") else "RGB"
            try:
                Image.new("RGB", (32, 32), (9, 200, 90)).convert(mode).save(tmp_path / f"{suffix[1:]}{suffix}", kind)
            except (OSError, ValueError):  # an encoder that is not there, or a mode that it does not take
                continue
            names.add(f"{suffix[1:]}{suffix}")
    assert {"jpg.jpg", "jp2.jp2", "tga.tga", "ico.ico", "pcx.pcx"} <= names
    dataset = open_dataset(str(tmp_path))
    assert set(dataset.ids) >= names
    assert scan(dataset).broken == []


def test_formats_without_a_mark_are_tried_last():
    formats = image_formats()
    unmarked = [name for name in formats if Image.OPEN[name][1] is None]
    assert formats[: len(formats) - len(unmarked)] + tuple(unmarked) == formats and "TGA" in unmarked
    assert formats[:2] == ("JPEG", "PNG")


def test_what_starts_a_program_is_no_image(tmp_path):
    assert not {".eps", ".ps", ".pdf", ".h5", ".grib", ".mpg"} & image_suffixes()
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert "not an image" in scan(open_dataset(str(tmp_path))).broken[0][1]


@pytest.mark.parametrize("bad", [(1, 0), (1, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_has_two_ends(bad):
    with pytest.raises(ValidationError, match=r"must be smaller|finite"):
        PixelConfig(value_range=bad)


def test_rules_come_with_the_transform_of_a_model():
    images = np.full((1, 8, 8), 2000, np.int32)
    dataset = ImageDataset(ArrayStore(images), name="x", ids=["0"], targets=np.zeros(1))
    with pytest.raises(ValueError, match="int32"):
        dataset.with_transform(PILToTensor())[0]
    preprocessing = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}
    transform = eval_transform({**preprocessing, "pixels": PixelConfig(value_range=(0, 4000)).model_dump()})
    assert abs(dataset.with_transform(transform)[0][0].mean().item() - 128 / 255) < 1e-6
