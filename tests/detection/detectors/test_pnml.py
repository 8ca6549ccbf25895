from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from ood_nc.detection import MissingInputError, create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, bias=True):
    """The authors' computation (score_utils.py), sample by sample."""
    train, _, queries = problem.exact()
    weight = problem.weight.astype(np.float64)
    train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    offset = problem.bias.astype(np.float64) if bias else 0
    log_p = log_softmax(queries @ weight.T + offset, axis=1)
    if bias:
        train, queries = (np.column_stack([np.ones(len(rows)), rows]) for rows in (train, queries))
    moment = train.T @ train
    inverse = np.linalg.pinv(moment, rcond=1e-12, hermitian=True)
    outside = np.eye(len(moment)) - inverse @ moment
    scores = []
    for x, p in zip(queries, np.exp(log_p), strict=True):
        energy = x @ inverse @ x
        g = max(x @ outside @ x, energy / (1 + energy))
        scores.append(-np.log(sum(p / (p + p**g * (1 - p)))))
    return np.array(scores)


test_agreement = agreement_test("pnml", oracle)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_a_head_without_bias_has_no_column_of_ones(problem):
    expected = oracle(problem, bias=False)
    for bias in (None, np.zeros_like(problem.bias)):
        detector = create_detector("pnml").fit(problem.features, head=(problem.weight, bias))
        np.testing.assert_allclose(detector.score(problem.queries), expected, rtol=1e-5, atol=1e-8)


def test_as_pytorch_ood_without_a_bias():
    # Theirs divides by log C, has no column of ones for the bias, and leaves out what lies outside the train span.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape), bias=False)
    head.weight.data = data["weight"]
    theirs = peer("PNML")(None, head).fit_features(data["features"], data["labels"])
    ours = create_detector("pnml").fit(problem.features, head=(problem.weight, None)).score(problem.queries)
    np.testing.assert_allclose(ours, -theirs.predict_features(data["queries"]) * np.log(5), rtol=1e-4, atol=1e-6)


def test_a_sample_outside_the_span_has_the_largest_regret():
    rows = np.eye(4)[:3]
    detector = create_detector("pnml").fit(np.tile(rows, (50, 1)), head=(np.eye(4)[:2], None))
    assert detector.rank_ == 3
    inside, outside = detector.score(np.eye(4)[2:])
    # Both have p = 1/2; outside, g = 1 and each term is 1/2 over 3/4.
    assert outside.item() == pytest.approx(-np.log(4 / 3))
    assert inside > outside / 10


def test_certain_and_impossible_classes_are_finite():
    detector = create_detector("pnml").fit(np.eye(2), head=(np.array([[1e5, 0], [-1e5, 0], [0, 0]]), None))
    scores = detector.score(np.array([[1.0, 0], [-1.0, 0], [0, 1.0]]))
    assert scores.isfinite().all()
    np.testing.assert_allclose(scores[:2], 0, atol=1e-12)


def test_zero_and_copied_columns():
    # Field case 23.
    problem = PROBLEMS[0]
    expected = create_detector("pnml").fit(problem.features, head=(problem.weight, None)).score(problem.queries)

    def widen(rows):
        return np.column_stack([rows, np.zeros(len(rows), dtype=rows.dtype)])

    detector = create_detector("pnml").fit(widen(problem.features), head=(widen(problem.weight), None))
    np.testing.assert_allclose(detector.score(widen(problem.queries)), expected, rtol=1e-9)
    assert detector.rank_ == 16


def test_fitted_in_two_chunks(monkeypatch):
    # Field case 27.
    problem = PROBLEMS[1]
    expected = scores_of(fitted("pnml", problem), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", 150)
    np.testing.assert_allclose(scores_of(fitted("pnml", problem), problem), expected, rtol=1e-6)


def test_without_a_head():
    with pytest.raises(MissingInputError, match="'pnml' lacks head in fit; it requires features, head"):
        create_detector("pnml").fit(PROBLEMS[0].features)
