from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import agreement_test, fitted, peer, peer_tensors, scores_of
from tests.detection.detectors.relu import RELU_PROBLEMS


def oracle(problem, lower=10.0, upper=90.0, below="zero"):
    train, _, queries = problem.exact()
    low, high = np.percentile(train.ravel(), lower), np.percentile(train.ravel(), upper)
    shaped = [[min(z, high) if z >= low else (0.0 if below == "zero" else low) for z in row] for row in queries]
    return logsumexp(problem.logits(np.array(shaped)), axis=1)


test_agreement = agreement_test(
    "vra", oracle, {}, {"lower": 60.0, "upper": 95.0}, {"lower": 60.0, "below": "clip"}, problems=RELU_PROBLEMS
)


def test_as_pytorch_ood_on_one_feature():
    # Theirs takes percentiles feature by feature, and clips from below; with one feature the former is the same.
    problem = RELU_PROBLEMS[0]
    data = peer_tensors(problem)
    column, queries, weight = (data[name][:, :1] for name in ("features", "queries", "weight"))
    theirs = peer("VRA")(None, lambda z: z @ weight.T + data["bias"], lower_percentile=0.6, upper_percentile=0.9)
    theirs.fit_feature_maps(column, data["labels"])
    ours = create_detector("vra", lower=60.0, below="clip").fit(column, head=(weight, data["bias"]))
    np.testing.assert_allclose(ours.score(queries), -theirs.predict_feature_maps(queries), rtol=1e-4, atol=1e-5)


def test_mostly_zeros_leave_react():
    problem = RELU_PROBLEMS[0]
    detector = fitted("vra", problem)
    assert detector.lower_ == 0
    np.testing.assert_array_equal(scores_of(detector, problem), scores_of(fitted("react", problem), problem))


def test_thresholds_in_the_wrong_order_or_out_of_range():
    with pytest.raises(UserError, match=r"'vra': lower 95\.0 is above upper 90\.0"):
        create_detector("vra", lower=95.0)
    for parameters in ({"lower": -1}, {"upper": 100}, {"below": "drop"}):
        with pytest.raises(UserError, match="'vra': "):
            create_detector("vra", **parameters)


def test_signed_features_are_refused():
    with pytest.raises(UserError, match="'vra' needs non-negative"):
        create_detector("vra").fit([[1.0, -1]], head=([[1.0, 1]], None))
