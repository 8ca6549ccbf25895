from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.scores import auroc
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def oracle(problem, temperature=1.0):
    return softmax(problem.logits(problem.queries) / temperature, axis=1).max(axis=1)


test_agreement = agreement_test("msp", oracle, {}, {"temperature": 10.0})


def test_as_pytorch_ood():
    logits = peer_tensors(PROBLEMS[0])["query_logits"]
    theirs = -peer("MaxSoftmax").score(logits)
    np.testing.assert_allclose(create_detector("msp").score(None, logits=logits), theirs, rtol=1e-5)


def test_confident_logits_keep_their_order():
    gaps = torch.arange(18.0, 28.0)
    logits = torch.stack([gaps, torch.zeros(10)], dim=1)
    assert len(set(logits.softmax(dim=1).amax(dim=1).tolist())) == 1
    scores = create_detector("msp").score(None, logits=logits)
    assert auroc(scores[5:], scores[:5]) == 1


def test_logits_from_the_head_given_to_fit():
    problem = PROBLEMS[0]
    detector = create_detector("msp").fit(problem.features, head=problem.head)
    np.testing.assert_allclose(detector.score(problem.queries), oracle(problem), rtol=1e-6)
    wide = torch.from_numpy(problem.queries).double()
    np.testing.assert_allclose(detector.score(wide), oracle(problem), rtol=1e-9)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "1", True])
def test_temperature_out_of_range(temperature):
    with pytest.raises(UserError, match="'msp': temperature must be a number above 0"):
        create_detector("msp", temperature=temperature)
