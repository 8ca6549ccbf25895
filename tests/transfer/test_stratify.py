"""Choices within a class against counts."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_nc.transfer._stratify import hold_out, shuffle_classes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.floats(0.05, 0.9), st.integers(0, 1000))
def test_a_share_of_each_class_is_held_out(labels: list[int], share: float, seed: int) -> None:
    kept, held_out = hold_out(torch.tensor(labels), share, seed)
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(len(labels)))
    for label in set(labels):
        size = labels.count(label)
        out = sum(labels[index] == label for index in held_out.tolist())
        # torch rounds the float32 product, so a share on the edge may go either way.
        allowed = {int(np.clip(round(size * share + nudge), 1, None)) for nudge in (-1e-4, 0, 1e-4)}
        assert out == 0 if size == 1 else out in {min(value, size - 1) for value in allowed}


def test_every_sample_is_as_likely() -> None:
    labels = torch.tensor([0] * 5 + [1] * 10)
    counts = torch.zeros(15)
    for seed in range(2000):
        counts[hold_out(labels, 0.2, seed)[1]] += 1
    torch.testing.assert_close(counts / 2000, torch.tensor([1 / 5] * 5 + [2 / 10] * 10), rtol=0, atol=0.04)


def test_places_count_within_the_class() -> None:
    labels = torch.tensor([5, 2, 5, 5, 2])
    indices, classes, places = shuffle_classes(labels, torch.Generator().manual_seed(0))
    assert classes.tolist() == [2, 2, 5, 5, 5]
    assert places.tolist() == [0, 1, 0, 1, 2]
    assert labels[indices].tolist() == classes.tolist()
