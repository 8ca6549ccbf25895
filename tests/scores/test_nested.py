from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ood_nc.errors import UserError
from ood_nc.scores import nested_means, percentile_interval


def simulated(generator: np.random.Generator, seeds: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of seeds and resamples of 200 images, which all seeds share; the truth is 0."""
    images = generator.normal(size=200) + generator.normal(size=(seeds, 200))
    values = images + spread * generator.normal(size=(seeds, 1))
    drawn = generator.multinomial(200, np.full(200, 1 / 200), size=200) / 200
    return values.mean(axis=1), values @ drawn.T


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_where_a_plain_nested_bootstrap_does_not(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    ours = plain = 0
    for _ in range(300):
        values, resamples = simulated(generator, seeds, spread=0.4)
        low, high = percentile_interval(nested_means(np.column_stack([values, resamples]))[1:])
        ours += low <= 0 <= high
        drawn = generator.integers(0, seeds, (seeds, resamples.shape[1]))
        low, high = percentile_interval(np.take_along_axis(resamples, drawn, axis=0).mean(axis=0))
        plain += low <= 0 <= high
    assert ours >= 0.92 * 300
    assert plain <= (0.88 if seeds < 5 else 0.92) * 300


def test_without_noise_of_images_it_is_students_interval_for_many_seeds() -> None:
    values = np.random.default_rng(0).normal(size=40)
    low, high = percentile_interval(nested_means(np.tile(values[:, None], 20_001))[1:])
    ends = stats.t.interval(0.95, 39, values.mean(), values.std(ddof=1) / np.sqrt(40))
    assert (low, high) == (pytest.approx(ends[0], abs=0.02), pytest.approx(ends[1], abs=0.02))


def test_one_seed_and_equal_seeds_keep_the_resamples_of_the_images() -> None:
    one = np.random.default_rng(0).normal(size=(1, 31))
    np.testing.assert_array_equal(nested_means(one), one[0])
    np.testing.assert_allclose(nested_means(np.repeat(one, 3, axis=0)), one[0])


def test_differences_of_numbers_with_as_many_seeds_are_paired() -> None:
    a = np.random.default_rng(0).normal(size=(3, 51))
    np.testing.assert_allclose(nested_means(a + 0.25) - nested_means(a), 0.25)


@pytest.mark.parametrize("shape", [(3,), (0, 5), (2, 0)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="seeds"):
        nested_means(np.zeros(shape))
