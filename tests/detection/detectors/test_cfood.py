from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def oracle(problem, k=0.01):
    """As OpenOOD with the whole of ID train, in float64, one difference at a time."""
    train, _, queries = problem.exact()
    train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    n = len(train)
    shares = np.concatenate([np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)])
    positions = (shares * n - 1).astype(int)
    keep = np.concatenate([[True], positions[:-1] < positions[1:]])
    shares, positions = shares[keep], positions[keep]
    radii = np.stack([np.sort(((train - row) ** 2).sum(axis=1))[positions + 1] for row in train])
    scores = []
    for query in queries:
        distances = ((train - query) ** 2).sum(axis=1)
        counts = (radii >= distances[:, None]).mean(axis=0)
        reached = np.flatnonzero(counts >= k - 1e-12)
        scores.append(-shares[reached[0]] if len(reached) else -1.0)
    return np.array(scores)


test_agreement = agreement_test("cfood", oracle, {}, {"k": 0.05})


def test_far_samples_are_taken_in_by_none():
    rng = np.random.default_rng(0)
    train = np.array([1.0, 0, 0]) + 0.1 * rng.normal(size=(200, 3))
    detector = create_detector("cfood").fit(train)
    assert detector.score([[-1.0, 0, 0]]).item() == -1
    assert detector.score([[1.0, 0, 0]]).item() > -0.1


def test_the_bank_is_a_seeded_subset():
    problem = PROBLEMS[0]
    first, again, other = (fitted("cfood", problem, bank_size=100, seed=seed).bank_ for seed in (0, 0, 1))
    assert len(first) == 100
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(fitted("cfood", problem).bank_) == 300


def test_a_few_rows_at_a_time_change_nothing(monkeypatch):
    problem = PROBLEMS[0]
    expected = scores_of(fitted("cfood", problem), problem)
    monkeypatch.setattr("ood_nc.detection.detectors.cfood._DISTANCES", 1000)
    np.testing.assert_array_equal(scores_of(fitted("cfood", problem), problem), expected)


@pytest.mark.parametrize("parameters", [{"k": 0}, {"k": 1.0}, {"bank_size": 0}, {"bank_size": True}, {"seed": -1}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'cfood': "):
        create_detector("cfood", **parameters)
