from __future__ import annotations

import numpy as np
import pytest

from ood_nc.data import NativeSizes, native_sizes, open_dataset, size_cue

from .conftest import encoded, pack, put


def sizes(widths, heights):
    return NativeSizes(np.array(widths), np.array(heights))


@pytest.mark.parametrize("kind", ["folder", "a.tar", "a.zip"])
def test_sizes_as_stored_and_broken_ones_left_out(kind, tmp_path):
    files = {"1.png": encoded(1, 8), "2.jpg": encoded(2, 24, "jpeg"), "3.png": b"damaged", "4.png": encoded(3, 16)}
    path = put(tmp_path / kind, files) if kind == "folder" else pack(tmp_path / kind, files)
    found = native_sizes(open_dataset(str(path)))
    assert found.widths.tolist() == found.heights.tolist() == [8, 24, 16]
    assert str(found) == "16 x 16"
    assert native_sizes(open_dataset(str(path)), most=2).widths.tolist() == [8, 16]


def test_a_cue_is_what_separates_the_sets():
    generator = np.random.default_rng(0)
    photographs = sizes(generator.integers(300, 600, 50), generator.integers(300, 600, 50))
    tiny = sizes([32] * 50, [32] * 50)
    assert size_cue(photographs, tiny).startswith("native sizes alone tell it from ID (AUROC 1.00")
    assert size_cue(photographs, photographs) is None
    assert size_cue(sizes([600] * 9, [150] * 9), sizes([150] * 9, [600] * 9)), "the same area, another shape"
    assert size_cue(sizes([32] * 9, [32] * 9), sizes([32] * 9, [32] * 9)) is None, "one size for all is no cue"
    assert size_cue(photographs, sizes([], [])) is None


def test_a_share_of_other_sizes_is_measured_as_a_score_would_be():
    same, half = sizes([32] * 10, [32] * 10), sizes([32] * 4 + [64] * 6, [32] * 4 + [64] * 6)
    assert size_cue(same, half) is None, "AUROC .8"
    assert "AUROC 0.95" in size_cue(same, sizes([32] + [64] * 9, [32] + [64] * 9))
