from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import entropy

from ood_nc.detection import create_detector
from ood_nc.detection.context import TapStatistics
from tests.detection.agreement import PROBLEMS, agreement_test, peer


def oracle(problem):
    train = softmax(problem.logits(problem.features), axis=1)
    predicted = train.argmax(axis=1)
    classes = train.shape[1]
    templates = [
        train[predicted == k].mean(axis=0) if (predicted == k).any() else np.eye(classes)[k] for k in range(classes)
    ]
    queries = softmax(problem.logits(problem.queries), axis=1)
    return np.array([-min(entropy(p, t) for t in templates) for p in queries])


test_agreement = agreement_test("klm", oracle)


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    train, queries = (torch.from_numpy(problem.logits(rows)) for rows in (problem.features, problem.queries))
    theirs = -peer("KLMatching")(None).fit_logits(train).predict_logits(queries)
    ours = create_detector("klm").fit(None, logits=train).score(None, logits=queries)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


def test_a_class_nobody_predicted_is_no_template():
    train = np.array([[4.0, 0, 0], [0, 4, 0], [4, 1, 0]])
    detector = create_detector("klm").fit(None, logits=train)
    assert detector.log_templates_.shape == (2, 3)
    scores = detector.score(None, logits=[[4.0, 0, 0], [0, 0, 4], [0, 0, 900]])
    assert scores[0] > scores[1] > scores[2] > -np.inf


def test_confident_softmax_keeps_its_distance_to_the_template():
    # The template is at a gap of 40, where p is 1 to the last digit; the divergence grows as the gap shrinks.
    detector = create_detector("klm").fit(None, logits=[[40.0, 0.0], [0.0, 40.0]])
    gaps = np.arange(40.0, 20.0, -1.0)
    scores = detector.score(None, logits=np.stack([gaps, np.zeros_like(gaps)], axis=1)).numpy()
    q, t = np.exp(-gaps) / (1 + np.exp(-gaps)), np.exp(-40.0) / (1 + np.exp(-40.0))
    expected = (1 - q) * (np.log1p(-q) - np.log1p(-t)) + q * (np.log(q) - np.log(t))
    np.testing.assert_allclose(scores[3:], -expected[3:], rtol=1e-9)
    assert (np.diff(scores) < 0).all()


def test_held_out_data_give_the_templates():
    train, held_out, queries = (PROBLEMS[i].logits(PROBLEMS[i].features) for i in (0, 2, 3))
    shared = TapStatistics(None, logits=train, held_out=TapStatistics(None, logits=held_out))
    scores = create_detector("klm").fit(shared).score(None, logits=queries)
    assert torch.equal(scores, create_detector("klm").fit(None, logits=held_out).score(None, logits=queries))
    assert not torch.equal(scores, create_detector("klm").fit(None, logits=train).score(None, logits=queries))
