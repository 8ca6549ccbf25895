from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from ood_nc.detection import create_detector
from ood_nc.detection.context import TapStatistics
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, make, peer


def likelihood(logits, labels, temperature):
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def oracle(problem):
    logits = problem.logits(problem.features)
    found = minimize_scalar(
        lambda log_t: likelihood(logits, problem.labels, np.exp(log_t)),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-12},
    )
    ordered = np.sort(problem.logits(problem.queries) / np.exp(found.x), axis=1)
    return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)


# Where the head classifies every train sample correctly there is no optimum to agree on.
OVERLAPPING = (
    *(problem for problem in PROBLEMS if problem.name not in ("wide", "two classes")),
    make("overlapping", signal=0.7),
    make("two overlapping", classes=2, dim=6, signal=0.7, n=101),
)
test_agreement = agreement_test("temperature", oracle, problems=OVERLAPPING)


def overconfident(n=4000, classes=5, factor=3.0, seed=0):
    """Logits that are ``factor`` times those the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits, axis=1)])
    return factor * logits, labels


def test_finds_the_factor_of_overconfidence():
    logits, labels = overconfident()
    assert create_detector("temperature").fit(None, labels, logits=logits).temperature_ == pytest.approx(3, rel=0.1)
    assert create_detector("temperature").fit(None, labels, logits=logits / 12).temperature_ == pytest.approx(
        0.25, rel=0.1
    )


def test_at_least_as_likely_as_pytorch_ood():
    # Theirs takes 50 steps of a hundredth of L-BFGS's from T = 1 and stops far short of the optimum; repeated, it
    # gets there.
    logits, labels = overconfident()
    theirs = peer("TemperatureScaling")(None)
    ours = create_detector("temperature").fit(None, labels, logits=logits).temperature_
    for _ in range(30):
        theirs.fit_logits(torch.from_numpy(logits).float(), torch.from_numpy(labels))
        assert likelihood(logits, labels, ours) <= likelihood(logits, labels, theirs.t.item())
    assert ours == pytest.approx(theirs.t.item(), rel=0.02)


def test_ranks_as_msp_at_that_temperature():
    problem = PROBLEMS[0]
    detector = fitted("temperature", problem)
    logits = problem.logits(problem.queries)
    msp = create_detector("msp", temperature=detector.temperature_).score(None, logits=logits)
    torch.testing.assert_close(detector.score(None, logits=logits).sigmoid(), msp)


def test_held_out_data_calibrate():
    train, held_out = overconfident(seed=1, factor=2.0), overconfident(seed=2, factor=5.0)
    statistics = TapStatistics(
        None, train[1], logits=train[0], held_out=TapStatistics(None, held_out[1], logits=held_out[0])
    )
    ours = create_detector("temperature").fit(statistics).temperature_
    assert ours == create_detector("temperature").fit(None, held_out[1], logits=held_out[0]).temperature_
    assert ours != create_detector("temperature").fit(None, train[1], logits=train[0]).temperature_


@pytest.mark.parametrize(("labels", "temperature"), [([0, 1], 0.01), ([1, 0], 100.0)])
def test_no_optimum(labels, temperature):
    # All right: the lower T the likelier. All wrong: the higher.
    detector = create_detector("temperature").fit(None, labels, logits=[[5.0, 0], [0, 5]])
    assert detector.temperature_ == temperature
    # A softmax of 1 to the last digit still has an order.
    np.testing.assert_allclose(detector.score(None, logits=[[1.0, 0], [20, 0], [0, 30]]) * temperature, [1, 20, 30])
