"""Features and heads at the ends of their range: the value of the same layer at scale 1, or an error; never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc import collapse
from ood_nc.collapse import METRICS, ClassStatistics, ShardedStatistics, UndefinedMetricError, measure
from ood_nc.errors import UserError

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 4
FEATURES = (RNG.normal(size=(4, 6))[LABELS] * 2 + RNG.normal(size=(120, 6))).clip(-8, 8)
WEIGHT = RNG.normal(size=(4, 6))


def report(features, weight, dtype):
    given = features.astype(dtype)
    stats = ClassStatistics(4, 6).update(given, LABELS)
    return measure(stats, weight=weight, features=given, labels=LABELS, ood=given[:7])


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 2.0**124), ("float32", 2.0**-130), ("float64", 2.0**470), ("float64", 2.0**-440)]
)
def test_no_scale_changes_a_metric_that_says_so(dtype, scale):
    before = report(FEATURES.astype(dtype), WEIGHT, dtype)
    after = report(FEATURES.astype(dtype) * np.asarray(scale, dtype), WEIGHT * scale, dtype)
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    for name, metric in METRICS.items():
        value = after.values[name]
        assert value is None or math.isfinite(value), name
        if "scale" in metric.invariances and metric.memory != "features":
            expected = before.values[name]
            assert value == (None if expected is None else pytest.approx(expected, rel=tolerance)), name


def test_deviations_beyond_float32_are_taken_in_float64():
    top = float(np.finfo(np.float32).max)
    rows = np.array([[top], *([[-top]] * 9)], dtype=np.float32)
    stats = ClassStatistics(1, 1).update(rows, np.zeros(10, int))
    assert float(stats.class_variances[0]) == pytest.approx(top**2 * (1 - 0.8**2), rel=1e-6)


@pytest.mark.parametrize("size", [1e150, 1e200])
def test_features_whose_squares_overflow_are_refused(size):
    features = FEATURES * (size / 8)
    good = ClassStatistics(4, 6).update(FEATURES, LABELS)
    for call in (
        lambda: ClassStatistics(4, 6).update(features, LABELS),
        lambda: ShardedStatistics(4, 6, shards=2).update(features, LABELS),
        lambda: collapse.nearest_means(good, features),
        lambda: collapse.entropy_nn(features),
        lambda: collapse.entropy_full(features),
        lambda: collapse.nc5_ortho(good, features),
    ):
        with pytest.raises(UserError, match=r"^features reach .*: scale them\.$"):
            call()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", sorted(name for name, metric in METRICS.items() if metric.needs == ("weight",)))
def test_a_head_that_is_not_finite_is_undefined_for_every_function(name, bad):
    weight = WEIGHT.copy()
    weight[1, 2] = bad
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    if name == "minority_collapse":
        stats.update(FEATURES[:8], LABELS[:8] * 0, weights=np.full(8, 100.0))
    function = getattr(collapse, name)
    arguments = (weight,) if name == "nc2_etf" or name.endswith("_head") else (stats, weight)
    with pytest.raises(UndefinedMetricError, match="weight holds NaN or infinity"):
        function(*arguments)


@pytest.mark.parametrize("labels", [[-1], [4], [255], [1.5], [math.nan], [1e20], [3 * 10**9]])
def test_labels_come_through_one_door(labels):
    for stats in (ClassStatistics(4, 6), ShardedStatistics(4, 6, shards=2)):
        with pytest.raises(UserError, match="labels must be") as error:
            stats.update(FEATURES[:1], labels)
        assert "\n" not in str(error.value)


def test_an_empty_batch_adds_nothing():
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    before = stats.state_dict()
    stats.update(FEATURES[:0], LABELS[:0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in stats.state_dict().items())
