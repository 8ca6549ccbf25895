from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def oracle(problem, temperature=1.0):
    return temperature * logsumexp(problem.logits(problem.queries) / temperature, axis=1)


test_agreement = agreement_test("energy", oracle, {}, {"temperature": 5.0})


def test_as_pytorch_ood():
    logits = peer_tensors(PROBLEMS[0])["query_logits"]
    for t in (1.0, 3.0):
        theirs = -peer("EnergyBased").score(logits, t=t)
        np.testing.assert_allclose(
            create_detector("energy", temperature=t).score(None, logits=logits), theirs, rtol=1e-5
        )


def test_large_logits_do_not_overflow():
    scores = create_detector("energy").score(None, logits=torch.tensor([[1e4, 1e4], [-1e4, -1e4]]))
    np.testing.assert_allclose(scores, [1e4 + np.log(2), -1e4 + np.log(2)])
