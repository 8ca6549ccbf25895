from __future__ import annotations

import numpy as np

from ood_nc.scores import RankCounts


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
