from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from scipy.stats import ortho_group

from ood_nc import collapse
from ood_nc.collapse import METRICS, ClassStatistics, CollapseReport, measure

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), [60, 50, 40, 6, 5])
FEATURES = RNG.normal(size=(5, 7))[LABELS] * 2 + RNG.normal(size=(161, 7))
WEIGHT, BIAS = RNG.normal(size=(5, 7)), RNG.normal(size=5)
PREDICTIONS = (FEATURES @ WEIGHT.T + BIAS).argmax(1)
OOD = RNG.normal(size=(30, 7)) + 1


def report(features: np.ndarray, weight: np.ndarray = WEIGHT, ood: np.ndarray = OOD) -> dict[str, float | None]:
    return measure(
        ClassStatistics(5, 7).update(features, LABELS),
        weight=weight,
        bias=BIAS,
        features=features,
        labels=LABELS,
        predictions=PREDICTIONS,
        ood=ood,
    ).to_dict()


def test_the_fields_of_the_report_are_the_metrics_in_their_order() -> None:
    others = {"num_samples", "num_classes", "dim", "reasons", "notes"}
    assert [item.name for item in fields(CollapseReport) if item.name not in others] == list(METRICS)


def test_every_metric_is_described_and_cannot_be_changed() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.definition and metric.source
        assert metric.collapsed in ("low", "high", None)
        assert set(metric.invariances) <= {"shift", "scale", "rotation", "linear"}
    with pytest.raises(FrozenInstanceError):
        METRICS["cdnv"].name = "other"  # type: ignore[misc]


def test_every_metric_has_a_function_of_its_name() -> None:
    for name in METRICS:
        assert callable(getattr(collapse, name.removesuffix("_uncentered"))), name
    for name in collapse.__all__:
        assert inspect.getdoc(getattr(collapse, name)), name


@pytest.mark.parametrize("change", ["shift", "scale", "rotation", "linear"])
def test_the_invariances_hold(change: str) -> None:
    turn = ortho_group.rvs(7, random_state=1)
    mixed = np.random.default_rng(2).normal(size=(7, 7)) + 3 * np.eye(7)
    changed = {
        "shift": lambda: report(FEATURES + 10),
        "scale": lambda: report(FEATURES * 8, ood=OOD * 8),
        "rotation": lambda: report(FEATURES @ turn, WEIGHT @ turn, OOD @ turn),
        "linear": lambda: report(FEATURES @ mixed),
    }[change]()
    before = report(FEATURES)
    for name, metric in METRICS.items():
        assert before[name] is not None, name
        if change in metric.invariances:
            assert changed[name] == pytest.approx(before[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("shift", ("nc4_bias", "nc5_ortho", "entropy_nn", "effective_rank_uncentered")),
        ("scale", ("trace_within", "trace_between", "nc4_bias")),
    ],
)
def test_what_is_not_invariant_does_change(change: str, names: tuple[str, ...]) -> None:
    before, after = report(FEATURES), report(FEATURES + 10 if change == "shift" else FEATURES * 8)
    for name in names:
        assert change not in METRICS[name].invariances
        assert after[name] != pytest.approx(before[name], rel=1e-3), name


def test_a_metric_needs_just_what_it_says() -> None:
    stats = ClassStatistics(5, 7).update(FEATURES, LABELS)
    given = {"weight": WEIGHT, "features": FEATURES, "labels": LABELS, "ood": OOD, "predictions or weight": PREDICTIONS}
    for name, metric in METRICS.items():
        arguments = {need.split()[0]: given[need] for need in metric.needs}
        assert name not in measure(stats, metrics=(name,), **arguments).reasons, name
        for left_out in arguments:
            fewer = {key: value for key, value in arguments.items() if key != left_out}
            assert left_out in measure(stats, metrics=(name,), **fewer).reasons[name], name


def test_only_the_metrics_that_say_so_need_the_scatter() -> None:
    stats = ClassStatistics(5, 7, full=False).update(FEATURES, LABELS)
    found = measure(stats, weight=WEIGHT, features=FEATURES, labels=LABELS, ood=OOD)
    needs_scatter = {name for name, metric in METRICS.items() if metric.memory == "O(C d + d^2)"}
    assert set(found.reasons) == needs_scatter
    assert all("full=False" in reason for reason in found.reasons.values())


def test_collapsing_features_move_every_metric_the_way_it_says() -> None:
    means = np.eye(7)[:5] - 1 / 7
    spread = np.random.default_rng(3).normal(size=FEATURES.shape)
    loose, tight = (report(means[LABELS] + scale * spread) for scale in (1.0, 0.05))
    head = {"nc2_etf", "minority_collapse", "nc2_seli"} | {name for name in METRICS if name.endswith("_head")}
    unrelated = head | {"nc3_duality", "nc3_papyan", "nc3_alignment", "nc4_ncc", "nc4_bias", "nc5_ortho"}
    for name, metric in METRICS.items():
        if name not in unrelated and metric.collapsed is not None:
            assert (tight[name] < loose[name]) == (metric.collapsed == "low"), name
