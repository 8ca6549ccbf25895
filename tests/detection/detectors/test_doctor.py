from __future__ import annotations

import numpy as np
import pytest

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def oracle(problem, variant="alpha", temperature=1.0):
    logits = problem.logits(problem.queries).astype(np.longdouble) / temperature
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    right = (p**2).sum(axis=1) if variant == "alpha" else p.max(axis=1)
    return (-(1 - right) / right).astype(np.float64)


test_agreement = agreement_test("doctor", oracle, {}, {"variant": "beta"}, {"temperature": 4.0})


@pytest.mark.parametrize("variant", ["alpha", "beta"])
def test_confident_logits_keep_their_order_and_value(variant):
    gaps = np.arange(18.0, 80.0, 4.0)
    logits = np.stack([gaps, np.zeros_like(gaps)], axis=1)
    scores = create_detector("doctor", variant=variant).score(None, logits=logits).numpy()
    # Two classes: D_beta = e^-g, D_alpha = 2 e^-g / (1 + e^-2g).
    expected = np.exp(-gaps) if variant == "beta" else 2 * np.exp(-gaps) / (1 + np.exp(-2 * gaps))
    np.testing.assert_allclose(scores, -expected, rtol=1e-12)


def test_uniform_scores_the_lowest():
    for variant in ("alpha", "beta"):
        score = create_detector("doctor", variant=variant).score(None, logits=np.zeros((1, 5)))
        assert score.item() == pytest.approx(-4)


def test_beta_ranks_as_msp():
    problem = PROBLEMS[0]
    beta, msp = (
        scores_of(fitted(name, problem, **p), problem) for name, p in (("doctor", {"variant": "beta"}), ("msp", {}))
    )
    np.testing.assert_allclose(1 / (1 - beta), msp, rtol=1e-12)


@pytest.mark.parametrize("parameters", [{"variant": "gamma"}, {"temperature": 0}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'doctor': "):
        create_detector("doctor", **parameters)
