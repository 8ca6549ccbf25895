from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.scores import NanScoreError, tie_note


def test_share_against_a_loop():
    generator = np.random.default_rng(0)
    ids, oods = generator.integers(0, 60, 40), generator.integers(0, 60, 30)
    every = [*ids.tolist(), *oods.tolist()]
    share = np.mean([every.count(value) > 1 for value in every])
    assert share > 0.5
    assert f"{100 * share:.0f} % of the 70 scores" in tie_note(ids, oods)
    assert f"({len(set(every))} distinct)" in tie_note(ids, oods)


@pytest.mark.parametrize(
    ("ids", "oods", "told"),
    [
        # Confidences that float32 rounds to 1.
        (torch.sigmoid(torch.arange(20.0, 40.0)), np.linspace(0, 0.9, 10), True),
        (np.full(5, np.inf), [-np.inf, -np.inf], True),
        ([1.0, 1.0], [0.0, 2.0], False),
        (np.arange(5.0), np.arange(5.0) + 0.5, False),
        ([1.0], [1.0], True),
    ],
)
def test_more_than_half_is_told(ids, oods, told):
    assert (tie_note(ids, oods) is not None) == told


def test_nan():
    with pytest.raises(NanScoreError):
        tie_note([np.nan], [0.0])
