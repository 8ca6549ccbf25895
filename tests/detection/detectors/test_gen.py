from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.scores import auroc
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def oracle(problem, gamma=0.1, top_classes=100):
    scores = []
    for row in problem.logits(problem.queries):
        odds = np.exp(row - row.max())
        total = sum(odds)
        rest = [sum(np.delete(odds, c)) / total for c in range(len(row))]
        terms = sorted(zip(odds / total, rest, strict=True), reverse=True)[:top_classes]
        scores.append(-sum(p**gamma * q**gamma for p, q in terms))
    return np.array(scores)


test_agreement = agreement_test("gen", oracle, {}, {"gamma": 2.0}, {"gamma": 0.5, "top_classes": 3})


def test_as_pytorch_ood():
    # Theirs averages instead of summing, and keeps probabilities within 1e-7 of 0 and 1 away from them.
    logits = peer_tensors(PROBLEMS[0])["query_logits"] / 4
    for gamma, m in ((0.1, None), (0.5, 3)):
        theirs = -peer("GEN").score(logits, gamma=gamma, M=m) * (m or logits.shape[1])
        ours = create_detector("gen", gamma=gamma, top_classes=m).score(None, logits=logits)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_hundred_classes_in_float32():
    # Field case 3: with the float32 softmax of confident logits this falls to 0.5.
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 100, generator=rng)
    logits[:, 0] += torch.where(torch.arange(200) < 100, 60.0, 45.0)
    p = logits.softmax(dim=1)
    assert (p.amax(dim=1) == 1).all()
    scores = create_detector("gen").score(None, logits=logits)
    assert auroc(scores[:100], scores[100:]) > 0.99


def test_gap_beyond_rounding_of_one():
    # 2 (p (1 - p))^gamma for two classes; 1 - p of the larger is not 0.
    gaps = np.array([10.0, 30.0, 36.0, 37.0, 40.0, 100.0])
    scores = create_detector("gen").score(None, logits=np.stack([gaps, np.zeros(6)], axis=1))
    np.testing.assert_allclose(scores, -2 * (np.exp(-gaps) / (1 + np.exp(-gaps)) ** 2) ** 0.1, rtol=1e-12)


def test_tied_classes_at_the_cut():
    # Which of the tied probabilities is taken makes no difference.
    scores = create_detector("gen", top_classes=2).score(None, logits=[[3.0, 1, 1, 0], [1, 0, 3, 1]])
    assert scores[0] == pytest.approx(float(scores[1]), rel=1e-14)


@pytest.mark.parametrize("parameters", [{"gamma": 0}, {"top_classes": 0}, {"top_classes": 1.5}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'gen': "):
        create_detector("gen", **parameters)
