from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc import collapse
from ood_nc.collapse import METRICS, ClassStatistics, CollapseReport, head_predictions, measure
from ood_nc.errors import UserError

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 4
FEATURES = RNG.normal(size=(4, 6))[LABELS] * 2 + RNG.normal(size=(120, 6))
WEIGHT, BIAS = RNG.normal(size=(4, 6)), RNG.normal(size=4)


def full_report() -> CollapseReport:
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    return measure(stats, weight=WEIGHT, bias=BIAS, features=FEATURES, labels=LABELS, ood=FEATURES + 1)


def test_every_metric_is_there_and_equals_its_own_function() -> None:
    report = full_report()
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    assert list(report.to_dict()) == list(METRICS)
    assert set(report.reasons) == {"minority_collapse"}
    head = {"nc2_etf", "nc2_norm_head", "nc2_angle_head"}
    for name, value in report.to_dict().items():
        if value is None:
            continue
        assert math.isfinite(value), name
        needs = METRICS[name].needs
        if name in head:
            assert value == getattr(collapse, name)(WEIGHT)
        elif not needs and hasattr(collapse, name):
            assert value == pytest.approx(getattr(collapse, name)(stats), rel=1e-12), name
    predictions = (FEATURES @ WEIGHT.T + BIAS).argmax(1)
    assert np.array_equal(head_predictions(FEATURES, WEIGHT, BIAS).numpy(), predictions)
    assert report.nc4_ncc == collapse.nc4_ncc(stats, FEATURES, predictions)
    assert report.effective_rank_uncentered == collapse.effective_rank(stats, centered=False)


def test_what_is_missing_is_none_with_a_reason() -> None:
    report = measure(ClassStatistics(4, 6).update(FEATURES, LABELS))
    for name in ("nc2_etf", "nc3_duality", "nc4_bias", "nc4_ncc", "ncc_accuracy", "entropy_nn", "nc5_ortho"):
        assert getattr(report, name) is None
        assert "needs" in report.reasons[name]
    assert set(report.reasons) == {name for name, value in report.to_dict().items() if value is None}


def test_one_class_defines_nothing_between_classes() -> None:
    report = measure(ClassStatistics(3, 6).update(FEATURES, np.zeros(120, dtype=int)), weight=np.ones((3, 6)))
    assert report.num_classes == 1
    assert report.trace_within is not None
    for name in ("nc1_pinv", "nc1_ratio", "cdnv", "vci", "nc2_norm", "nc2_angle"):
        assert getattr(report, name) is None, name
    assert any("no samples" in note for note in report.notes)


def test_more_classes_than_dimensions_and_single_samples_are_noted() -> None:
    labels = np.arange(9)
    report = measure(ClassStatistics(9, 3).update(FEATURES[:9, :3], labels))
    assert any("no simplex ETF exists" in note for note in report.notes)
    assert any("one sample" in note for note in report.notes)


def test_held_out_samples_are_judged_by_the_means_of_train() -> None:
    train, held = ClassStatistics(4, 6).update(FEATURES[:80], LABELS[:80]), ClassStatistics(4, 6)
    held.update(FEATURES[80:], LABELS[80:])
    report = measure(held, features=FEATURES[80:], labels=LABELS[80:], reference=train)
    assert report.ncc_accuracy == collapse.ncc_accuracy(train, FEATURES[80:], LABELS[80:])


def test_only_what_is_asked_for() -> None:
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    report = measure(stats, metrics=("nc1_ratio",))
    assert [name for name, value in report.to_dict().items() if value is not None] == ["nc1_ratio"]
    with pytest.raises(UserError, match="nc1_pinv"):
        measure(stats, metrics=("nc1_pin",))


def test_torch_and_numpy_agree_and_nothing_is_changed() -> None:
    before = FEATURES.copy()
    as_torch = [torch.from_numpy(part.copy()) for part in (FEATURES, LABELS, WEIGHT, BIAS)]
    stats = ClassStatistics(4, 6).update(as_torch[0], as_torch[1])
    report = measure(stats, weight=as_torch[2], bias=as_torch[3], features=as_torch[0], labels=as_torch[1])
    expected = full_report().to_dict()
    for name, value in report.to_dict().items():
        if name != "nc5_ortho":
            assert value == expected[name], name
    assert np.array_equal(FEATURES, before)
    assert torch.equal(as_torch[0], torch.from_numpy(before))


def test_every_metric_is_described() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.definition
        assert metric.source
        assert metric.collapsed in ("low", "high", None)
