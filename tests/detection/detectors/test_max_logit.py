from __future__ import annotations

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def oracle(problem):
    return problem.logits(problem.queries).max(axis=1)


test_agreement = agreement_test("max_logit", oracle)


def test_as_pytorch_ood():
    logits = peer_tensors(PROBLEMS[0])["query_logits"]
    assert (create_detector("max_logit").score(None, logits=logits) == -peer("MaxLogit").score(logits)).all()
