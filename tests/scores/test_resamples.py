from __future__ import annotations

import numpy as np
import pytest

from ood_nc.scores import RankResamples, draw_ranks, draw_samples


def test_drawn_samples_are_resamples():
    counts = draw_samples(50, 2000, 0)
    assert (counts.sum(axis=1) == 50).all()
    # A sample is left out with probability (1 - 1/n)^n, and the variance of its count is (1 - 1/n).
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_counts_that_are_shared_cannot_be_written_to():
    drawn = draw_ranks(6, 3, 0)
    assert np.array_equal(drawn.below(np.array([1, 2, 3])), drawn.before[:, 1:4])
    with pytest.raises(ValueError, match="read-only"):
        drawn.below(np.array([1, 2, 3]))[:] = 0
    assert np.array_equal(drawn.below(np.array([1, 3, 3])), drawn.before[:, [1, 3, 3]])
    for counts in (drawn.drawn, drawn.above):
        with pytest.raises(ValueError, match="read-only"):
            counts += 1


def test_counts_between_the_edges_of_groups_are_interpolated():
    drawn = RankResamples(10, np.array([0, 5, 10]), np.array([[0.0, 4.0, 10.0]]))
    assert drawn.below(np.array([0, 1, 5, 6, 10])).tolist() == [[0, 0.8, 4, 5.2, 10]]
