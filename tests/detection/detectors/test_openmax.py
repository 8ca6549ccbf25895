from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import spearmanr, weibull_min

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, peer


def weibull(values):
    """Shape and scale of best likelihood, from the equation for the shape."""
    x = values.astype(np.longdouble) / values.max()

    def equation(shape):
        powers = x**shape
        return float((powers * np.log(x)).sum() / powers.sum() - 1 / np.longdouble(shape) - np.log(x).mean())

    shape = brentq(equation, 1.0, 1e12, xtol=1e-12, rtol=1e-14)
    return shape, float((x**shape).mean() ** (1 / np.longdouble(shape)) * values.max())


def models(logits, labels, tail):
    correct = logits.argmax(axis=1) == labels
    result = {}
    for c in np.unique(labels):
        own = logits[(labels == c) & correct] if ((labels == c) & correct).any() else logits[labels == c]
        distances = np.sort(np.linalg.norm(own - own.mean(axis=0), axis=1))[-tail:]
        result[c] = own.mean(axis=0), distances.min(), *weibull(distances - distances.min() + 10_000)
    return result


def oracle(problem, tail=20, alpha=3):
    fitted = models(problem.logits(problem.features), problem.labels, tail)
    scores = []
    for row in problem.logits(problem.queries):
        alpha_here = min(alpha, len(row))
        revised, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:alpha_here]):
            mean, start, shape, scale = fitted[c]
            # The distribution function by its exponent in float64 would lose the digits that the shape multiplies.
            x = (np.longdouble(np.linalg.norm(row - mean)) - start + 10_000) / np.longdouble(scale)
            exponent = np.exp(np.minimum(shape * np.log(x), 100))
            share = float(-np.expm1(-exponent)) * (alpha_here - rank) / alpha_here
            unknown += row[c] * share
            revised[c] = row[c] * (1 - share)
        scores.append(logsumexp(revised) - unknown)
    return np.array(scores)


test_agreement = agreement_test("openmax", oracle, {}, {"tail": 40, "alpha": 10}, {"alpha": 1})


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_tail_fit_is_at_least_as_likely_as_scipys():
    rng = np.random.default_rng(0)
    distances = np.sort(rng.gamma(3.0, size=200))[-20:]
    logits = np.zeros((21, 2))
    logits[1:, 0] = distances
    detector = create_detector("openmax").fit(None, np.zeros(21, dtype=int), logits=logits)
    own = np.sort(np.abs(logits[:, 0] - logits[:, 0].mean()))[-20:]
    translated = own - own.min() + 10_000
    shape = 10_000 / detector.width_[0].item()
    scale = 10_000 * np.exp(detector.location_[0].item() / 10_000)
    theirs = weibull_min.fit(translated, floc=0, f0=shape * 1.01)
    assert weibull_min.logpdf(translated, shape, scale=scale).sum() >= weibull_min.logpdf(translated, *theirs).sum()


def test_ranks_as_pytorch_ood_where_that_has_not_run_into_0_or_1():
    # Theirs fits to all samples of a class, also those classified as another, so the labels here are the predictions;
    # it fits by Nelder-Mead; and it takes distances to the classes predicted in the batch only, so all are.
    problem = PROBLEMS[0]
    train, queries = (torch.from_numpy(problem.logits(rows)) for rows in (problem.features, problem.queries))
    labels = train.argmax(dim=1)
    assert set(queries.argmax(dim=1).tolist()) == set(range(5))
    theirs = peer("OpenMax")(None, tailsize=20, alpha=3).fit_logits(train, labels).predict_logits(queries).numpy()
    ours = create_detector("openmax").fit(None, labels, logits=train).score(None, logits=queries).numpy()
    clear = (theirs > 1e-12) & (theirs < 1 - 1e-12)
    assert clear.sum() > 20
    assert spearmanr(ours[clear], -theirs[clear]).statistic > 0.999


def test_known_center_is_certain_and_far_away_is_not():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    logits = 8 * np.eye(3)[labels] + rng.normal(size=(300, 3))
    detector = create_detector("openmax").fit(None, labels, logits=logits)
    near, far = detector.score(None, logits=[[8.0, 0, 0], [80, 70, 70]])
    assert near > 5 > 0 > far


def test_class_without_samples_or_without_hits():
    # Class 1 has no sample: its logit goes to the unknown class. Class 2 is never predicted: all its samples count.
    logits = np.array([[5.0, 0, 0], [6, 0, 1], [4, 1, 3], [5, 1, 2]])
    detector = create_detector("openmax", alpha=1).fit(None, [0, 0, 2, 2], logits=logits)
    assert detector.known_.tolist() == [True, False, True]
    np.testing.assert_allclose(detector.centers_[2], [4.5, 1, 2.5])
    np.testing.assert_allclose(detector.score(None, logits=[[0.0, 7, 0]]), np.log(3) - 7)


def test_same_distances_are_a_step():
    detector = create_detector("openmax", alpha=1).fit(None, [0, 0], logits=[[1.0, 0], [3, 0]])
    inside, outside = detector.score(None, logits=[[2.5, 0], [3.5, 0]])
    assert inside.item() == pytest.approx(np.log(np.exp(2.5) + 1))
    assert outside.item() == pytest.approx(np.log(2) - 3.5)


@pytest.mark.parametrize("parameters", [{"tail": 1}, {"alpha": 0}, {"tail": 2.5}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'openmax': "):
        create_detector("openmax", **parameters)
