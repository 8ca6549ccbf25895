from __future__ import annotations

import numpy as np
import pytest

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import agreement_test


def root(logits, temperature):
    wide = logits.astype(np.longdouble) / temperature
    p = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.sqrt(p / p.sum(axis=-1, keepdims=True))


def oracle(problem, reduce="sum", temperature=1.0):
    logits = problem.logits(problem.features)
    centroids = np.stack([logits[problem.labels == c].mean(axis=0) for c in range(problem.labels.max() + 1)])
    queries, centroids = root(problem.logits(problem.queries), temperature), root(centroids, temperature)
    distances = np.array([[2 * np.arccos(min((q * c).sum(), 1)) for c in centroids] for q in queries])
    return (distances.sum(axis=1) if reduce == "sum" else -distances.min(axis=1)).astype(np.float64)


test_agreement = agreement_test("igeood", oracle, {}, {"temperature": 5.0}, {"reduce": "min"})


def test_two_certain_centroids_and_what_lies_between():
    detector = create_detector("igeood").fit(None, [0, 1], logits=[[200.0, 0], [0, 200]])
    scores = detector.score(None, logits=[[200.0, 0], [0, 0], [1, 0]])
    # On the arc between two centroids the distances add up to the whole, pi.
    np.testing.assert_allclose(scores, np.pi)
    nearest = create_detector("igeood", reduce="min").fit(None, [0, 1], logits=[[200.0, 0], [0, 200]])
    np.testing.assert_allclose(nearest.score(None, logits=[[200.0, 0], [0, 0]]), [0, -np.pi / 2], atol=1e-15)


def test_nearest_keeps_small_distances_apart():
    # The sine of half the distance to (1, 0) is the root of the smaller probability; the cosine is 1 to the last digit.
    gaps = np.arange(38.0, 60.0, 2.0)
    detector = create_detector("igeood", reduce="min").fit(None, [0], logits=[[900.0, 0]])
    scores = detector.score(None, logits=np.stack([gaps, np.zeros_like(gaps)], axis=1)).numpy()
    np.testing.assert_allclose(scores, -2 * np.arcsin(np.sqrt(np.exp(-gaps) / (1 + np.exp(-gaps)))), rtol=1e-7)


@pytest.mark.parametrize("parameters", [{"reduce": "mean"}, {"temperature": -1}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'igeood': "):
        create_detector("igeood", **parameters)
