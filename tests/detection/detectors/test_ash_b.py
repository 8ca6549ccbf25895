from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from tests.detection.agreement import agreement_test
from tests.detection.detectors.relu import RELU_PROBLEMS


def binarised(row, percentile):
    k = max(1, len(row) - int(np.round(len(row) * percentile / 100)))
    chosen = [j for j in np.argsort(-row, kind="stable")[:k] if row[j] > 0]
    result = np.zeros_like(row)
    result[chosen] = row.sum() / max(len(chosen), 1)
    return result


def oracle(problem, percentile=65.0):
    _, _, queries = problem.exact()
    return logsumexp(problem.logits(np.array([binarised(row, percentile) for row in queries])), axis=1)


test_agreement = agreement_test("ash_b", oracle, {}, {"percentile": 90.0}, problems=RELU_PROBLEMS)


def test_zeros_are_not_filled():
    # Two of six places, one positive entry: it gets the whole sum.
    detector = create_detector("ash_b").fit(np.eye(6), head=(np.arange(6.0)[None], None))
    assert detector.score([[0.0, 0, 0, 5, 0, 0]]).item() == pytest.approx(15)


def test_tied_entries_share_the_places_left():
    # Two of six places for one 4 and two 1s: 3 for the 4, 1.5 for each 1.
    detector = create_detector("ash_b").fit(np.eye(6), head=([[1.0, 10, 100, 0, 0, 0]], None))
    assert detector.score([[4.0, 1, 1, 0, 0, 0]]).item() == pytest.approx(3 + 15 + 150)
