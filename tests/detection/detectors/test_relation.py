from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def oracle(problem, power=1.0, threshold=0.03):
    """As OpenOOD, pair by pair."""
    train, _, queries = problem.exact()
    bank = softmax(problem.logits(train), axis=1)
    scores = []
    for query, own in zip(queries, softmax(problem.logits(queries), axis=1), strict=True):
        total = 0.0
        for row, other in zip(train, bank, strict=True):
            cosine = max(query @ row / np.linalg.norm(query) / np.linalg.norm(row), 0)
            relation = cosine * (own @ other)
            total += relation**power if relation > threshold else 0
        scores.append(total)
    return np.array(scores)


test_agreement = agreement_test("relation", oracle, {}, {"power": 4.0}, {"threshold": 0.2, "power": 2.0})


def test_blocks_of_the_bank_change_nothing(monkeypatch):
    problem = PROBLEMS[0]
    detector = fitted("relation", problem)
    expected = scores_of(detector, problem)
    monkeypatch.setattr("ood_nc.detection.kit.densities.BLOCK", 70)
    np.testing.assert_allclose(scores_of(detector, problem), expected, rtol=1e-9)


def test_the_bank_is_a_seeded_subset():
    problem = PROBLEMS[0]
    first, again, other = (fitted("relation", problem, bank_size=40, seed=seed).units_ for seed in (0, 0, 1))
    assert len(first) == 40
    assert (first == again).all()
    assert not (first == other).all()
    assert (fitted("relation", problem, bank_size=None).units_ == fitted("relation", problem).units_).all()


def test_opposite_features_have_no_relation():
    detector = create_detector("relation", threshold=0).fit(np.eye(2), logits=np.zeros((2, 2)))
    assert detector.score([[-1.0, -1.0], [2.0, 0.0]], logits=np.zeros((2, 2))).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("parameters", [{"power": 0}, {"threshold": -0.1}, {"bank_size": 0}, {"seed": "0"}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'relation': "):
        create_detector("relation", **parameters)
