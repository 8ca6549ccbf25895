from __future__ import annotations

import numpy as np
import pytest

from ood_nc.scores import RankCounts
from ood_nc.scores.counts import SampleCounts


def test_counts_against_a_loop():
    generator = np.random.default_rng(0)
    ids, oods = generator.integers(0, 6, 20), generator.integers(0, 6, 15)
    values = np.unique(np.concatenate([ids, oods]))
    before = [[[int((side < value).sum()) for value in values] + [len(side)]] for side in (ids, oods)]
    counts = RankCounts(20, 15, *map(np.array, before))
    for name, side in (("id", ids), ("ood", oods)):
        assert getattr(counts, name)[0].tolist() == [(side == value).sum() for value in values]
        assert getattr(counts, f"{name}_below")[0].tolist() == [(side < value).sum() for value in values]
        assert getattr(counts, f"{name}_through")[0].tolist() == [(side <= value).sum() for value in values]
        assert getattr(counts, f"{name}_above")[0].tolist() == [(side >= value).sum() for value in values]


@pytest.mark.parametrize(("levels", "m"), [(6, 15), (1000, 15), (1, 15), (6, 0)])
def test_counts_of_sorted_scores_against_a_loop(levels, m):
    generator = np.random.default_rng(levels)
    sides = {"id": np.sort(generator.integers(0, levels, 20)), "ood": np.sort(generator.integers(0, levels, m))}
    counts = SampleCounts(100, 90, *sides.values(), (7, 3))
    each = {"at_id": sides["id"], "at_ood": sides["ood"] if m else np.unique(sides["id"])}
    for at, scores in each.items():
        found = getattr(counts, at)
        for (name, side), skipped in zip(sides.items(), (7, 3), strict=True):
            below = [skipped + (side < score).sum() for score in scores]
            through = [skipped + (side <= score).sum() for score in scores]
            assert getattr(found, f"{name}_below")[0].tolist() == below
            assert getattr(found, f"{name}_through")[0].tolist() == through
            # Every sample once, whatever ties with it.
            assert getattr(getattr(counts, f"at_{name}"), name).sum() == len(side)
            assert getattr(counts, name).sum() == len(side)
