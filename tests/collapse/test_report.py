from __future__ import annotations

import math
import warnings

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
    head = {"nc2_etf"} | {name for name in METRICS if name.endswith("_head")}
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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["weight", "bias", "features", "ood"])
def test_an_array_that_is_not_finite_makes_its_metrics_none_and_no_other(which: str, bad: float) -> None:
    given = {"weight": WEIGHT.copy(), "bias": BIAS.copy(), "features": FEATURES.copy(), "ood": FEATURES + 1}
    given[which].flat[3] = bad
    report = measure(ClassStatistics(4, 6).update(FEATURES, LABELS), labels=LABELS, **given)
    hit = {
        "weight": {name for name, metric in METRICS.items() if "weight" in metric.needs} | {"nc4_ncc"},
        "bias": {"nc4_bias", "nc4_ncc"},
        "features": {"nc4_ncc", "ncc_accuracy", "entropy_nn"},
        "ood": {"nc5_ortho"},
    }[which]
    assert {name for name, value in report.to_dict().items() if value is None} == hit | {"minority_collapse"}
    for name in hit - {"minority_collapse"}:
        assert "NaN or infinity" in report.reasons[name]
    assert all(math.isfinite(value) for value in report.to_dict().values() if value is not None)


def test_a_value_beyond_float64_is_none() -> None:
    stats = ClassStatistics(4, 6).update(FEATURES + 100, LABELS)
    report = measure(stats, weight=np.full((4, 6), 1e308), metrics=("nc4_bias",))
    assert report.nc4_bias is None
    assert "range" in report.reasons["nc4_bias"]


def test_no_samples_leave_only_what_the_head_and_the_features_say() -> None:
    report = measure(ClassStatistics(4, 6), weight=WEIGHT, features=FEATURES, labels=LABELS, ood=FEATURES)
    assert report.num_samples == report.num_classes == 0
    assert {name for name, value in report.to_dict().items() if value is not None} == {
        "nc2_etf",
        "nc2_norm_head",
        "nc2_angle_head",
        "gnc2_frame_head",
        "gnc2_margin_head",
        "gnc2_uniformity_head",
        "uniformity_head",
        "entropy_nn",
    }
    assert set(report.reasons.values()) == {"no samples."}


def test_no_bias_counts_as_zeros() -> None:
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    without = measure(stats, weight=WEIGHT, features=FEATURES)
    zeros = measure(stats, weight=WEIGHT, bias=np.zeros(4), features=FEATURES)
    assert without.to_dict() == zeros.to_dict()
    assert without.nc4_bias is not None


def test_more_classes_than_dimensions_keep_every_value_finite() -> None:
    labels = np.arange(120) % 12
    stats = ClassStatistics(12, 2).update(FEATURES[:, :2] + labels[:, None], labels)
    report = measure(stats, weight=RNG.normal(size=(12, 2)), features=FEATURES[:, :2], labels=labels)
    floor = collapse.etf_floor(12, 2)
    assert min(report.nc2_etf, report.nc2_etf_means, report.nc3_duality) >= floor
    assert any(f"{floor:.4f}" in note for note in report.notes)
    assert set(report.reasons) == {"nc5_ortho", "minority_collapse"}


def test_given_predictions_go_before_those_of_the_head() -> None:
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    nearest = collapse.nearest_means(stats, FEATURES)
    assert measure(stats, weight=WEIGHT, features=FEATURES, predictions=nearest).nc4_ncc == 0
    assert measure(stats, features=FEATURES, predictions=(nearest + 1) % 4).nc4_ncc == 1


def test_the_entropy_is_that_of_a_seeded_subset() -> None:
    stats = ClassStatistics(4, 6).update(FEATURES, LABELS)
    report = measure(stats, features=FEATURES, entropy_samples=30, seed=5)
    assert report.entropy_nn == collapse.entropy_nn(FEATURES, max_samples=30, seed=5)
    with pytest.raises(UserError, match="at least 2"):
        measure(stats, features=FEATURES, entropy_samples=1)


def test_the_centre_is_handed_on() -> None:
    keep = (LABELS > 0) | (np.arange(120) < 20)
    stats = ClassStatistics(4, 6).update(FEATURES[keep], LABELS[keep])
    report = measure(stats, weight=WEIGHT, center="samples")
    for name in ("trace_between", "nc1_ratio", "nc2_norm", "nc2_angle", "gnc2_margin", "uniformity"):
        assert getattr(report, name) == pytest.approx(getattr(collapse, name)(stats, "samples"), rel=1e-12), name
        assert getattr(report, name) != pytest.approx(getattr(collapse, name)(stats), rel=1e-6), name


def test_head_predictions_take_any_precision_and_keep_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    features, weight = rng.normal(size=(3000, 32)).astype(np.float32), rng.normal(size=(40, 32)).astype(np.float32)
    expected = (features.astype(float) @ weight.astype(float).T).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(head_predictions(features, weight).numpy(), expected)
    half = torch.from_numpy(features).half()
    assert torch.equal(head_predictions(half, weight), head_predictions(half.float(), weight))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert np.array_equal(head_predictions(features, weight).numpy(), expected)


def test_head_predictions_accept_any_bias_of_the_right_length() -> None:
    frozen = BIAS.copy()
    frozen.flags.writeable = False
    expected = (FEATURES @ WEIGHT.T + BIAS).argmax(1)
    for bias in (frozen, BIAS[::-1].copy()[::-1], BIAS.tolist(), torch.tensor(BIAS, requires_grad=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(head_predictions(FEATURES, WEIGHT, bias).numpy(), expected)
    for wrong in (BIAS[:1], BIAS[:3], BIAS[None]):
        with pytest.raises(UserError, match="bias must have shape"):
            head_predictions(FEATURES, WEIGHT, wrong)
    with pytest.raises(UserError, match="weight must have shape"):
        head_predictions(FEATURES, WEIGHT[:, :5])
