from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.detection.agreement import agreement_test, fitted, peer, peer_tensors, scores_of
from tests.detection.detectors.relu import RELU_PROBLEMS


def factor(row, percentile):
    k = max(1, len(row) - int(np.round(len(row) * percentile / 100)))
    top = np.sort(row)[::-1][:k].sum()
    return row.sum() / top if top > 0 else 1.0


def oracle(problem, percentile=85.0):
    _, _, queries = problem.exact()
    return logsumexp(problem.logits(np.array([row * np.exp(factor(row, percentile)) for row in queries])), axis=1)


test_agreement = agreement_test("scale", oracle, {}, {"percentile": 65.0}, problems=RELU_PROBLEMS)


@pytest.mark.parametrize("problem", [RELU_PROBLEMS[0], RELU_PROBLEMS[2]], ids=lambda problem: problem.name)
def test_as_pytorch_ood(problem):
    data = peer_tensors(problem)
    theirs = peer("SCALE")(None, lambda maps: maps.flatten(1) @ data["weight"].T + data["bias"], percentile=0.85)
    expected = -theirs.predict_feature_maps(data["queries"][:, :, None, None])
    np.testing.assert_allclose(scores_of(fitted("scale", problem), problem), expected, rtol=1e-4, atol=1e-3)
