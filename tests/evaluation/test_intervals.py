from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation.intervals import draw_ranks, merge, replicate
from ood_nc.evaluation.resampling import interval
from ood_nc.scores import detection_metrics


@pytest.mark.parametrize(("n", "m", "levels"), [(50, 40, 8), (300, 200, 1000), (7, 400, 3), (1, 1, 2), (20, 20, 1)])
def test_small_sets_are_exact(n: int, m: int, levels: int) -> None:
    generator = np.random.default_rng(n)
    ids = np.round(generator.normal(1, 1, n) * levels / 8)
    oods = np.round(generator.normal(0, 1, m) * levels / 8)
    sides = draw_ranks(n, 15, 1), draw_ranks(m, 15, 2)
    found = replicate(merge(ids, oods), *sides)
    for k in range(15):
        drawn = [
            np.repeat(np.sort(scores), side.drawn[:, k].astype(int))
            for scores, side in zip((ids, oods), sides, strict=True)
        ]
        wanted = detection_metrics(*drawn)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert found[name][k] == pytest.approx(value, abs=1e-12), name


def large(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    ids = generator.normal(1, 1, n)
    return ids, generator.normal(0, 1, m)


def test_grouped_ranks_have_the_spread_of_an_explicit_bootstrap() -> None:
    ids, oods = large(3000, 2000)
    found = replicate(merge(ids, oods), draw_ranks(3000, 400, 1), draw_ranks(2000, 400, 2))
    generator = np.random.default_rng(5)
    explicit = [
        detection_metrics(generator.choice(ids, len(ids)), generator.choice(oods, len(oods))) for _ in range(400)
    ]
    for name, values in found.items():
        wanted = np.array([entry[name] for entry in explicit])
        # 400 replicates know a standard deviation to 3.5 %, and a mean to a twentieth of one.
        assert values.std() == pytest.approx(wanted.std(), rel=0.18), name
        assert abs(values.mean() - wanted.mean()) < 0.3 * wanted.std(), name


@pytest.mark.parametrize(("m", "low", "high"), [(50, 0.71, 0.83), (10_000, 0.757, 0.769)])
def test_case_12_intervals_of_few_and_of_many_ood_images(m: int, low: float, high: float) -> None:
    ids, oods = large(10_000, m)
    found = replicate(merge(ids, oods), draw_ranks(10_000, 1000, 1), draw_ranks(m, 1000, 2))
    assert interval(found["auroc"]) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    if m == 50:
        assert detection_metrics(ids, oods)["auroc"] == pytest.approx(0.772, abs=5e-4)


def test_infinite_scores_and_the_seed() -> None:
    ids, oods = np.array([0.0, 1.0, np.inf, np.inf]), np.array([-np.inf, 0.0, 2.0])
    sides = draw_ranks(4, 30, [0, 1]), draw_ranks(3, 30, [0, 2])
    found = replicate(merge(ids, oods), *sides)
    assert all(np.isfinite(values).all() for values in found.values())
    again = draw_ranks(4, 30, [0, 1])
    assert np.array_equal(again.drawn, sides[0].drawn)
    assert not np.array_equal(draw_ranks(4, 30, [1, 1]).drawn, sides[0].drawn)
