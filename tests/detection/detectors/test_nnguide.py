from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, k=None, fraction=1.0):
    train, _, queries = problem.exact()
    k = min(100, len(train)) if k is None else k
    bank = train / np.linalg.norm(train, axis=1, keepdims=True)
    bank *= logsumexp(problem.logits(train), axis=1)[:, None]
    scores = []
    for query, energy in zip(queries, logsumexp(problem.logits(queries), axis=1), strict=True):
        similarities = bank @ query / np.linalg.norm(query)
        scores.append(energy * np.sort(similarities)[-k:].mean())
    return np.array(scores)


test_agreement = agreement_test("nnguide", oracle, {"fraction": 1.0}, {"fraction": 1.0, "k": 7})


def test_as_pytorch_ood():
    # Theirs takes the whole of ID train and K 10 by default, the authors' code and OpenOOD 1 % and 100.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    theirs = peer("NNGuide")(None, head, k=10).fit_features(data["features"], data["labels"])
    expected = -theirs.predict_features(data["queries"])
    np.testing.assert_allclose(
        scores_of(fitted("nnguide", problem, k=10, fraction=1.0), problem), expected, rtol=1e-4, atol=1e-4
    )


def test_blocks_of_the_bank_change_nothing(monkeypatch):
    problem = PROBLEMS[0]
    detector = fitted("nnguide", problem, k=30, fraction=1.0)
    expected = scores_of(detector, problem)
    for block in (7, 100):
        monkeypatch.setattr("ood_nc.detection.kit.densities.BLOCK", block)
        np.testing.assert_allclose(scores_of(detector, problem), expected, rtol=1e-6)


def test_the_bank_is_a_seeded_subset_never_smaller_than_k():
    problem = PROBLEMS[0]
    first, again, other = (fitted("nnguide", problem, k=20, seed=seed).bank_ for seed in (0, 0, 1))
    assert len(first) == 20
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(fitted("nnguide", problem, k=20, fraction=0.5).bank_) == 150
    assert len(fitted("nnguide", PROBLEMS[4]).bank_) == 30


def test_k_larger_than_id_train():
    with pytest.raises(UserError, match="k = 301 is more than the 300 features"):
        fitted("nnguide", PROBLEMS[0], k=301)


@pytest.mark.parametrize("parameters", [{"k": 0}, {"fraction": 0}, {"fraction": 1.5}, {"seed": -1}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'nnguide': "):
        create_detector("nnguide", **parameters)
