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


def oracle(problem, percentile=65.0):
    _, _, queries = problem.exact()
    return logsumexp(problem.logits(np.array([kept(row, percentile) for row in queries])), axis=1)


test_agreement = agreement_test("ash_p", oracle, {}, {"percentile": 90.0}, problems=RELU_PROBLEMS)


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
