"""A far offset and any scale of float64 features change no invariant metric by more than 1e-9, relative."""

from __future__ import annotations

import numpy as np
import pytest

from ood_nc.collapse import METRICS, ClassStatistics, measure

PROBLEMS = [(5, 8, 200), (12, 4, 300), (4, 30, 25)]


def report(features: np.ndarray, labels: np.ndarray, classes: int, weight: np.ndarray) -> dict[str, float | None]:
    stats = ClassStatistics(classes, features.shape[1]).update(features, labels)
    return measure(
        stats, weight=weight, bias=weight[:, 0], features=features, labels=labels, ood=features[:5]
    ).to_dict()


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("change", "offset", "scale"), [("shift", 1e4, 1.0), ("scale", 0.0, 1e-6), ("scale", 0.0, 1e6)]
)
def test_invariant_metrics_keep_nine_digits(
    change: str, offset: float, scale: float, problem: tuple[int, int, int]
) -> None:
    classes, dim, n = problem
    rng = np.random.default_rng(n)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n)])
    features = 2 * rng.normal(size=(classes, dim))[labels] + rng.normal(size=(len(labels), dim))
    weight = rng.normal(size=(classes, dim))
    before = report(features, labels, classes, weight)
    after = report(scale * features + offset, labels, classes, weight)
    for name, metric in METRICS.items():
        # Predictions of the head follow the features; the invariance of nc4_ncc is at given predictions.
        linear = change in metric.invariances or "linear" in metric.invariances
        if linear and before[name] is not None and name != "nc4_ncc":
            assert after[name] == pytest.approx(before[name], rel=1e-9, abs=1e-13), name


def test_the_paper_names_its_four_numbers() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    stats = ClassStatistics(3, 5).update(rng.normal(size=(30, 5)), labels)
    weight = rng.normal(size=(3, 5))
    result = measure(stats, weight=weight, bias=np.ones(3))
    assert result.paper() == {
        "NC1": result.nc1_pinv,
        "NC2": result.nc2_etf,
        "NC3": result.nc3_duality,
        "NC4": result.nc4_bias,
    }
    assert result.paper()["NC4"] == pytest.approx(np.linalg.norm(weight @ stats.global_mean.numpy() + 1), rel=1e-12)
