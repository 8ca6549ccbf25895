from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import entropy

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def oracle(problem):
    return -entropy(softmax(problem.logits(problem.queries), axis=1), axis=1)


test_agreement = agreement_test("entropy", oracle)


def test_as_pytorch_ood():
    # Theirs raises probabilities below 1e-7 to that.
    logits = peer_tensors(PROBLEMS[0])["query_logits"]
    theirs = -peer("Entropy").score(logits)
    np.testing.assert_allclose(create_detector("entropy").score(None, logits=logits), theirs, rtol=1e-4, atol=1e-5)


def test_uniform_and_certain():
    scores = create_detector("entropy").score(None, logits=torch.tensor([[0.0] * 4, [1e4, 0, 0, 0]]))
    np.testing.assert_allclose(scores, [-np.log(4), 0], atol=1e-15)


def test_confident_logits_keep_their_order_and_value():
    gaps = np.arange(18.0, 80.0, 4.0)
    scores = create_detector("entropy").score(None, logits=np.stack([gaps, np.zeros_like(gaps)], axis=1)).numpy()
    small = np.exp(-gaps)
    np.testing.assert_allclose(scores, -(np.log1p(small) + gaps * small / (1 + small)), rtol=1e-12)
    assert (np.diff(scores) > 0).all()
