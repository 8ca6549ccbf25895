from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import NonFiniteError, create_detector, detector_class, list_detectors
from ood_nc.detection.context import TapStatistics
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, scores_of

FEATURES, LABELS, LOGITS = np.eye(4), [0, 1, 0, 1], np.arange(8.0).reshape(4, 2)
HEAD = np.ones((2, 4)), None


def test_train_data_stand_in():
    train = TapStatistics(FEATURES, LABELS)
    assert train.calibration is train
    held_out = TapStatistics(FEATURES[:2], LABELS[:2])
    assert TapStatistics(FEATURES, LABELS, held_out=held_out).calibration is held_out


def test_held_out_logits_come_from_their_own_head():
    held_out = TapStatistics(FEATURES, LABELS, head=HEAD)
    train = TapStatistics(FEATURES, LABELS, logits=LOGITS, held_out=held_out)
    assert torch.equal(train.calibration.logits, torch.ones(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ({"features": FEATURES, "labels": LABELS}, "held_out lacks logits, which the train data have"),
        ({"features": FEATURES, "logits": LOGITS}, "held_out lacks labels"),
        ({"features": FEATURES[:, :3], "labels": LABELS, "logits": LOGITS}, "3 features per sample, .* have 4"),
        ({"features": FEATURES, "labels": LABELS, "logits": np.eye(4)}, "4 logits per sample, .* have 2"),
    ],
)
def test_held_out_data_that_do_not_fit(held_out, message):
    with pytest.raises(UserError, match=message):
        TapStatistics(FEATURES, LABELS, logits=LOGITS, held_out=TapStatistics(**held_out))


def test_held_out_data_that_are_not_finite():
    broken = LOGITS.copy()
    broken[2, 1] = np.nan
    train = TapStatistics(None, logits=LOGITS, held_out=TapStatistics(None, logits=broken))
    with pytest.raises(NonFiniteError, match="the first is row 2"):
        create_detector("klm").fit(train)


@pytest.mark.parametrize("name", list_detectors(kind="feature"))
def test_held_out_data_that_are_not_finite_cost_those_alone_that_read_them(name):
    problem = next(one for one in PROBLEMS if one.name == "relu")
    given = {"labels": problem.labels, "head": problem.head}
    broken = np.where(np.arange(len(problem.features))[:, None] == 2, np.nan, problem.features)
    sound, other = (
        TapStatistics(problem.features, **given, held_out=TapStatistics(held_out, **given))
        for held_out in (problem.features, broken)
    )
    expected = scores_of(create_detector(name).fit(sound), problem)
    if detector_class(name).fits_on_held_out:
        with pytest.raises(NonFiniteError, match="the first is row 2"):
            create_detector(name).fit(other)
    else:
        np.testing.assert_array_equal(scores_of(create_detector(name).fit(other), problem), expected)
