from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import agreement_test, fitted, peer, peer_tensors, scores_of
from tests.detection.detectors.relu import RELU_PROBLEMS


def kept(row, percentile):
    """What is kept of a row: every choice of k largest activations, averaged."""
    k = max(1, len(row) - int(np.round(len(row) * percentile / 100)))
    smallest = np.sort(row)[-k]
    above, tied = np.flatnonzero(row > smallest), np.flatnonzero(row == smallest)
    if smallest == 0:
        return np.where(row > 0, row, 0)
    choices = [np.isin(np.arange(len(row)), [*above, *chosen]) * row for chosen in combinations(tied, k - len(above))]
    return np.mean(choices, axis=0)


def binarised(row, percentile):
    k = max(1, len(row) - int(np.round(len(row) * percentile / 100)))
    chosen = [j for j in np.argsort(-row, kind="stable")[:k] if row[j] > 0]
    result = np.zeros_like(row)
    result[chosen] = row.sum() / max(len(chosen), 1)
    return result


def sharpened(row, percentile):
    pruned = kept(row, percentile)
    return pruned * np.exp(row.sum() / pruned.sum()) if pruned.any() else pruned


def oracle(shape, default):
    def scores(problem, percentile=default):
        _, _, queries = problem.exact()
        return logsumexp(problem.logits(np.array([shape(row, percentile) for row in queries])), axis=1)

    return scores


test_pruned = agreement_test("ash_p", oracle(kept, 65.0), {}, {"percentile": 90.0}, problems=RELU_PROBLEMS)
test_binarised = agreement_test("ash_b", oracle(binarised, 65.0), {}, {"percentile": 90.0}, problems=RELU_PROBLEMS)
test_scaled = agreement_test("ash_s", oracle(sharpened, 90.0), {}, {"percentile": 65.0}, problems=RELU_PROBLEMS)


@pytest.mark.parametrize("variant", ["ash_p", "ash_b", "ash_s"])
def test_as_pytorch_ood_without_zeros(variant):
    # Where fewer activations than it keeps are positive, its ASH-B fills up with arbitrary zeros.
    problem = RELU_PROBLEMS[2]
    data = peer_tensors(problem)
    assert (problem.queries > 0).sum(axis=1).min() > 6
    theirs = peer("ASH")(
        None,
        lambda maps: maps.flatten(1) @ data["weight"].T + data["bias"],
        variant=variant.replace("_", "-"),
        percentile=0.65,
    )
    expected = -theirs.predict_feature_maps(data["queries"][:, :, None, None])
    np.testing.assert_allclose(scores_of(fitted(variant, problem, percentile=65.0), problem), expected, rtol=1e-5)


@pytest.mark.parametrize("variant", ["ash_p", "ash_b", "ash_s"])
def test_ties_do_not_depend_on_the_order_of_features(variant):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, size=(50, 24)).astype(np.float64)
    weight, order = rng.normal(size=(3, 24)), rng.permutation(24)
    scores = create_detector(variant).fit(rows, head=(weight, None)).score(rows)
    moved = create_detector(variant).fit(rows[:, order], head=(weight[:, order], None)).score(rows[:, order])
    np.testing.assert_allclose(scores, moved, rtol=1e-12)


@pytest.mark.parametrize("variant", ["ash_p", "ash_b", "ash_s", "scale"])
def test_no_bias_is_a_zero_bias(variant):
    problem = RELU_PROBLEMS[0]
    scores = [
        create_detector(variant).fit(problem.features, head=(problem.weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(len(problem.weight)))
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize("variant", ["ash_p", "ash_b", "ash_s", "scale", "lts"])
def test_signed_features_and_percentiles_out_of_range_are_refused(variant):
    with pytest.raises(UserError, match="needs non-negative"):
        create_detector(variant).fit([[1.0, -1]], head=([[1.0, 1]], None))
    with pytest.raises(UserError, match=f"'{variant}': percentile must be a number of at least 0 and below 100"):
        create_detector(variant, percentile=100)


@pytest.mark.parametrize("variant", ["ash_p", "ash_b", "ash_s", "scale", "lts"])
def test_a_row_of_zeros_has_the_energy_of_the_bias(variant):
    problem = RELU_PROBLEMS[0]
    detector = create_detector(variant).fit(problem.features, head=problem.head)
    score = detector.score(np.zeros_like(problem.features[:1])).item()
    assert score == pytest.approx(logsumexp(problem.bias.astype(np.float64)), rel=1e-12)


def test_zeros_are_not_filled():
    # Two of six places, one positive entry: it gets the whole sum.
    detector = create_detector("ash_b").fit(np.eye(6), head=(np.arange(6.0)[None], None))
    assert detector.score([[0.0, 0, 0, 5, 0, 0]]).item() == pytest.approx(15)


def test_tied_entries_share_the_places_left():
    # Two of six places for one 4 and two 1s: 3 for the 4, 1.5 for each 1.
    detector = create_detector("ash_b").fit(np.eye(6), head=([[1.0, 10, 100, 0, 0, 0]], None))
    assert detector.score([[4.0, 1, 1, 0, 0, 0]]).item() == pytest.approx(3 + 15 + 150)


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
