from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from tests.detection.agreement import agreement_test
from tests.detection.detectors.relu import RELU_PROBLEMS
from tests.detection.detectors.test_ash_p import kept


def sharpened(row, percentile):
    pruned = kept(row, percentile)
    return pruned * np.exp(row.sum() / pruned.sum()) if pruned.any() else pruned


def oracle(problem, percentile=90.0):
    _, _, queries = problem.exact()
    return logsumexp(problem.logits(np.array([sharpened(row, percentile) for row in queries])), axis=1)


test_agreement = agreement_test("ash_s", oracle, {}, {"percentile": 65.0}, problems=RELU_PROBLEMS)


def hard_rows(dim):
    """Rows that float32 does not survive: even, with one entry, tiny, huge, and of zeros."""
    rows = np.zeros((6, dim), dtype=np.float32)
    rows[0], rows[1, 3], rows[2, :2], rows[3], rows[4] = 1, 2, 1e-38, 1e30, np.linspace(1, 2, dim)
    return rows


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
@pytest.mark.parametrize("name", ["ash_s", "scale", "lts"])
def test_every_row_has_a_finite_score(name, percentile):
    rows = hard_rows(2048)
    weight = np.random.default_rng(0).normal(size=(10, 2048))
    scores = create_detector(name, percentile=percentile).fit(rows, head=(weight, np.ones(10))).score(rows)
    assert torch.isfinite(scores).all()


def test_exponent_beyond_float32_keeps_the_ranking():
    # s1 / s2 of 100 in float64: exp of it is far above float32's largest, and the order is that of the logits.
    rows = np.ones((1, 1000), dtype=np.float32) * np.arange(1, 9, dtype=np.float32)[:, None]
    weight = np.full((2, 1000), 1e-3)
    for name in ("ash_s", "scale"):
        scores = create_detector(name, percentile=99.0).fit(rows, head=(weight, None)).score(rows)
        assert (scores.diff() > 0).all()
        assert scores.float().isinf().all()


def test_cut_exponents_rank_by_the_logits():
    rows = np.ones((1, 2000)) * np.arange(1.0, 9)[:, None]
    scores = create_detector("ash_s", percentile=99.95).fit(rows, head=(np.ones((1, 2000)), None)).score(rows)
    np.testing.assert_allclose(scores, np.arange(1, 9) * np.exp(500.0), rtol=1e-9)
