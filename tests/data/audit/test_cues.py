from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ood_nc.data.audit import CUES, cue_detection
from ood_nc.data.audit.cues import header_cues, pixel_cues
from tests.helpers.pictures import picture

COLUMNS = [column for columns in CUES.values() for column in columns]


def header(stored) -> dict[str, float]:
    return dict(zip(COLUMNS, header_cues(stored), strict=False))


def pixels(image: Image.Image) -> dict[str, float]:
    return dict(zip(COLUMNS[8:], pixel_cues(image), strict=True))


def stored(image: Image.Image, kind: str, **settings) -> Image.Image:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return Image.open(content)


def test_size_and_aspect():
    found = header(picture(0, (128, 32)))
    assert (found["log_pixels"], found["log_aspect"]) == (12, 2)
    assert header(np.zeros((32, 64, 3), dtype=np.uint8))["log_aspect"] == 1


def test_jpeg_tables():
    """Annex K of the JPEG standard: the luminance table's mean is 57.625 at quality 50, where it is used as it is."""
    found = header(stored(picture(0), "jpeg", quality=50, subsampling=2))
    assert found["luma_table"] == pytest.approx(np.log2(57.625))
    assert found["subsampling"] == 2 and found["progressive"] == 0
    assert header(stored(picture(0), "jpeg", quality=90))["luma_table"] < found["luma_table"] - 1
    assert header(stored(picture(0), "jpeg", progressive=True))["progressive"] == 1
    assert header(stored(picture(0), "png"))["luma_table"] == 0
    assert header(stored(picture(0).convert("L"), "jpeg"))["chroma_table"] == 0


def test_formats_and_modes_differ():
    kinds = [("jpeg", "RGB"), ("png", "RGB"), ("png", "L"), ("png", "RGBA"), ("webp", "RGB")]
    seen = {(one["format"], one["mode"]) for one in (header(stored(picture(0).convert(m), k)) for k, m in kinds)}
    assert len(seen) == len(kinds)


def test_grey_borders_brightness():
    plain = pixels(picture(0, (80, 80)))
    assert plain["grey"] == 0 and plain["top"] == plain["left"] == 0 and plain["border_level"] == -1
    assert pixels(picture(0).convert("L").convert("RGB"))["grey"] == 1
    framed = Image.new("RGB", (100, 80), (30, 30, 30))
    framed.paste(picture(0, (80, 60)), (15, 8))
    found = pixels(framed)
    assert [found[side] for side in ("top", "bottom", "left", "right")] == [0.1, 0.15, 0.15, 0.05]
    assert found["border_level"] == 30
    assert pixels(Image.new("RGB", (9, 9), (7, 7, 7)))["top"] == 1
    assert pixels(Image.new("RGB", (9, 9), (200, 200, 200)))["brightness"] == 200


def columns(n: int, seed: int = 0, **values) -> np.ndarray:
    table = np.zeros((n, len(COLUMNS)), dtype=np.float32)
    table[:, COLUMNS.index("brightness")] = np.random.default_rng(seed).normal(120, 20, n)
    for name, value in values.items():
        table[:, COLUMNS.index(name)] = value
    return table


def test_a_cue_that_is_there_in_eight_of_ten_is_worth_an_auroc_of_eight_tenths():
    """A bit that is 1 with probability .2 and .8: AUROC (1 + .8 - .2) / 2."""
    bits = [np.random.default_rng(seed).random(1000) < share for seed, share in ((1, 0.2), (2, 0.8))]
    found = cue_detection(columns(1000, 3, grey=bits[0]), columns(1000, 4, grey=bits[1]))
    expected = (1 + bits[1].mean() - bits[0].mean()) / 2
    assert found["by_cue"]["grey"]["auroc"] == pytest.approx(expected, abs=0.02)
    assert found["by_cue"]["grey"]["low"] < expected < found["by_cue"]["grey"]["high"]
    assert found["auroc"] == pytest.approx(expected, abs=0.03)
    assert found["told_by"] == ["grey"]
    assert found["by_cue"]["size"] == {"auroc": 0.5, "low": 0.5, "high": 0.5}, "the same for all"


@pytest.mark.parametrize("n", [12, 40, 300])
def test_no_cue_is_found_where_there_is_none(n):
    for seed in range(2):
        found = cue_detection(columns(n, 2 * seed), columns(n, 2 * seed + 1))
        assert found["told_by"] == [] and found["low"] < 0.6


def test_a_cue_between_others_is_no_matter_of_direction():
    """ID sizes on both sides of the OOD size: no threshold tells them, a tree does."""
    sizes = np.where(np.arange(60) % 2, 10.0, 18.0)
    found = cue_detection(columns(60, log_pixels=sizes), columns(60, 1, log_pixels=14))
    assert found["by_cue"]["size"]["auroc"] == 1 and found["told_by"] == ["size"]


def test_too_few_images():
    found = cue_detection(columns(9), columns(50))
    assert found["auroc"] is None and found["told_by"] == [] and "ten" not in found["reason"]
    assert "at least 10" in found["reason"] and (found["n_id"], found["n"]) == (9, 50)
