from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from ood_nc.errors import UserError
from ood_nc.scores import (
    METRICS,
    EmptySideError,
    NanScoreError,
    aupr,
    auroc,
    detection_error,
    detection_metrics,
    fpr95_paper,
    fpr_at_tpr,
    ranking,
)


def curve(positive, negative):
    """scikit-learn's ROC of scores that are larger for the positive side."""
    truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    # scikit-learn refuses infinities; ranks do not change a ROC.
    ranks = np.unique(np.r_[positive, negative], return_inverse=True)[1]
    false, true, _ = sk.roc_curve(truth, ranks, drop_intermediate=False)
    return truth, ranks, false, true


def oracle(inside, outside):
    truth, ranks, false, true = curve(inside, outside)
    _, _, false_ood, true_ood = curve(-np.asarray(outside, float), -np.asarray(inside, float))
    threshold = np.sort(inside)[round(0.05 * len(inside))]
    return {
        "auroc": sk.roc_auc_score(truth, ranks),
        "fpr95_id_positive": false[true >= 0.95].min(),
        "fpr95_ood_positive": false_ood[true_ood >= 0.95].min(),
        "fpr95_paper": np.mean(np.asarray(outside) > threshold),
        "aupr_in": sk.average_precision_score(truth, ranks),
        "aupr_out": sk.average_precision_score(1 - truth, -ranks),
        "detection_error": (0.5 * (1 - true) + 0.5 * false).min(),
    }


def scores(seed):
    """Random data with heavy ties, offsets up to 1e8 and infinities."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 20000 if seed % 3 == 0 else 60, 2)
    sides = [rng.normal(shift, 1, size) for shift, size in ((1, n), (0, m))]
    if seed % 2:
        sides = [np.round(side, seed % 3) for side in sides]
    sides = [side + 10.0 ** (seed % 9) for side in sides]
    for side in sides:
        side[rng.integers(0, len(side), len(side) // 10)] = rng.choice([np.inf, -np.inf])
    return sides


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("block", [4, 1 << 15])
def test_against_scikit_learn(seed, block, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", block)
    inside, outside = scores(seed)
    found = detection_metrics(inside, outside)
    assert list(found) == list(METRICS)
    assert found == pytest.approx(oracle(inside, outside), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)),
    hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(-3, 3)),
)
def test_heavy_ties_against_scikit_learn(inside, outside):
    assert detection_metrics(inside, outside) == pytest.approx(oracle(inside, outside), abs=1e-12)


def test_each_metric_alone_is_the_one_of_the_sweep():
    inside, outside = scores(1)
    found = detection_metrics(inside, outside)
    assert found == {
        "auroc": auroc(inside, outside),
        "fpr95_id_positive": fpr_at_tpr(inside, outside),
        "fpr95_ood_positive": fpr_at_tpr(inside, outside, positive="ood"),
        "fpr95_paper": fpr95_paper(inside, outside),
        "aupr_in": aupr(inside, outside),
        "aupr_out": aupr(inside, outside, positive="ood"),
        "detection_error": detection_error(inside, outside),
    }


def test_published_oracles():
    first, second = np.arange(20) + 10.5, np.arange(30)
    found = detection_metrics(first, second)
    rates = "fpr95_id_positive", "fpr95_paper", "fpr95_ood_positive"
    assert [found[name] for name in rates] == [18 / 30, 18 / 30, 18 / 20]
    assert found["auroc"] == 41 / 60
    found = detection_metrics(second, first)
    assert [found[name] for name in rates] == [1, 1, 29 / 30]
    assert found["auroc"] == 19 / 60
    rng = np.random.default_rng(0)
    found = detection_metrics(rng.normal(1.5, 1, 1000), rng.normal(0, 1, 1000))
    assert round(found["auroc"], 4) == 0.8498
    assert [found[name] for name in rates] == [0.527, 0.527, 0.581]


def test_conventions_differ():
    # Field case 1.
    inside, outside = np.arange(1, 21), np.r_[np.arange(0.5, 9), 25]
    assert auroc(inside, outside) == 0.72
    assert fpr_at_tpr(inside, outside) == 0.8
    assert fpr_at_tpr(inside, outside, positive="ood") == 1


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1, -40), (1e3, 0)])
def test_scores_are_not_squashed(scale, offset):
    # Field case 3.
    inside, outside = (torch.tensor(side) * scale + offset for side in ([20.0, 21, 22, 23], [17.0, 18, 19, 21.5]))
    assert auroc(inside, outside) == 0.875


def test_torchmetrics_agrees_inside_its_range():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    inside, outside = rng.beta(4, 2, 300), rng.beta(2, 3, 200)
    truth = torch.tensor([1] * 300 + [0] * 200)
    together = torch.from_numpy(np.r_[inside, outside])
    assert auroc(inside, outside) == pytest.approx(torchmetrics.binary_auroc(together, truth).item(), abs=1e-6)
    expected = torchmetrics.binary_average_precision(together, truth).item()
    assert aupr(inside, outside) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-12, 0), (1e-300, 0), (1, 1e8)])
def test_ranks_alone(scale, offset):
    # Field case 7.
    inside, outside = (np.array(side) * scale + offset for side in ([0.35, 0.8], [0.1, 0.4]))
    assert auroc(inside, outside) == 0.75
    assert fpr_at_tpr(inside, outside) == 0.5


def test_aupr_and_the_base_rate():
    # Field case 10.
    inside, outside = np.arange(3, 11), np.array([0, 1, 2, 3.5, 5.5, 7.5, 2.5, 1.5])
    found, repeated = detection_metrics(inside, outside), detection_metrics(inside, np.tile(outside, 5))
    assert (found["auroc"], found["fpr95_id_positive"]) == (0.859375, 0.375)
    assert (repeated["auroc"], repeated["fpr95_id_positive"]) == (0.859375, 0.375)
    assert [round(found[name], 5) for name in ("aupr_in", "aupr_out")] == [0.86105, 0.89657]
    assert [round(repeated[name], 5) for name in ("aupr_in", "aupr_out")] == [0.63488, 0.97221]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("positive", ["id", "ood"])
def test_trapezoid_against_scikit_learn(seed, positive):
    inside, outside = scores(seed)
    truth, ranks, _, _ = curve(inside, outside)
    if positive == "ood":
        truth, ranks = 1 - truth, -ranks
    precision, recall, _ = sk.precision_recall_curve(truth, ranks)
    found = aupr(inside, outside, positive=positive, interpolation="trapezoid")
    assert found == pytest.approx(sk.auc(recall, precision), abs=1e-12)


@pytest.mark.parametrize("tpr", [0.01, 0.5, 0.8, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 3, 20, 60, 100])
def test_any_tpr_against_scikit_learn(tpr, n):
    rng = np.random.default_rng(n)
    inside, outside = rng.integers(0, 30, n), rng.integers(0, 30, n + 1)
    _, _, false, true = curve(inside, outside)
    assert fpr_at_tpr(inside, outside, tpr) == pytest.approx(false[true >= tpr].min(), abs=1e-15)
    _, _, false, true = curve(-outside, -inside)
    assert fpr_at_tpr(inside, outside, tpr, positive="ood") == pytest.approx(false[true >= tpr].min(), abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-5, 5)), st.integers(1, 29), st.randoms())
def test_symmetry_monotone_maps_and_order(values, cut, random):
    cut = min(cut, len(values) - 1)
    inside, outside = values[:cut], values[cut:]
    assert auroc(inside, outside) == pytest.approx(1 - auroc(outside, inside), abs=1e-12)
    found = detection_metrics(inside, outside)
    shuffled = [np.array(random.sample(list(side), len(side))) for side in (inside, outside)]
    assert detection_metrics(*shuffled) == found
    # Doubling is exact in floating point, so no new ties appear.
    assert detection_metrics(*(2 * side for side in (inside, outside))) == found
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize("function", [auroc, fpr_at_tpr, fpr95_paper, aupr, detection_error, detection_metrics])
def test_empty_side(function):
    # Field case 5.
    with pytest.raises(EmptySideError, match=r"The OOD side holds no scores \(4 ID, 0 OOD\)"):
        function(np.arange(4.0), [])
    with pytest.raises(EmptySideError, match=r"The ID side holds no scores \(0 ID, 4 OOD\)"):
        function([], np.arange(4.0))
    with pytest.raises(EmptySideError, match="The ID and the OOD side"):
        function([], [])


def test_nan_is_refused_with_count_and_place():
    inside = np.array([1.0, np.nan, 2, np.nan])
    with pytest.raises(NanScoreError, match=r"id_scores holds 2 NaN of 4, the first at index 1") as caught:
        detection_metrics(inside, [0.0])
    assert (caught.value.count, caught.value.first) == (2, 1)
    with pytest.raises(NanScoreError, match="ood_scores holds 1 NaN of 2, the first at index 0"):
        auroc([0.0], torch.tensor([float("nan"), 1.0]))


def test_types_layouts_and_unchanged_inputs():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(-50, 50, 200), rng.integers(-60, 40, 100)
    expected = detection_metrics(inside, outside)
    for dtype in (np.float16, np.float32, np.float64, np.int16, ">f8"):
        assert detection_metrics(inside.astype(dtype), outside.astype(dtype)) == expected
    for dtype in (torch.bfloat16, torch.float32):
        assert detection_metrics(torch.tensor(inside, dtype=dtype), torch.tensor(outside, dtype=dtype)) == expected
    assert detection_metrics(inside.astype(np.float32), outside.astype(np.float64)) == expected
    assert detection_metrics(np.repeat(inside, 2)[::-2], outside[::-1]) == expected
    assert detection_metrics(inside.tolist(), outside.tolist()) == expected
    frozen = inside.astype(np.float64)
    frozen.flags.writeable = False
    before = frozen.copy()
    assert detection_metrics(frozen, outside) == expected
    assert (frozen == before).all()
    assert auroc([True, True], [False]) == 1


def test_mixed_precision_is_not_narrowed():
    # 1 and 1 + 1e-9 are one number in float32.
    assert auroc(np.array([1 + 1e-9]), np.array([1.0], dtype=np.float32)) == 1


def test_threads_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    inside, outside = (np.round(rng.normal(shift, 1, 50000), 3) for shift in (1, 0))
    expected = detection_metrics(inside, outside)
    monkeypatch.setattr(ranking, "_WORTH_THREADS", 0)
    monkeypatch.setattr(ranking.torch, "get_num_threads", lambda: 3)
    assert detection_metrics(inside, outside) == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: fpr_at_tpr([1.0], [0.0], tpr=0),
        lambda: fpr_at_tpr([1.0], [0.0], tpr=95),
        lambda: fpr_at_tpr([1.0], [0.0], positive="in"),
        lambda: aupr([1.0], [0.0], positive="in"),
        lambda: aupr([1.0], [0.0], interpolation="linear"),
        lambda: auroc(np.ones((2, 2)), [0.0]),
    ],
)
def test_arguments_out_of_range(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_counts_above_float32():
    # 2^24 + 1 and its neighbour are one number in float32 counts.
    inside = np.r_[np.zeros(2**24 + 1, np.int8), np.ones(1, np.int8)]
    assert auroc(inside, np.zeros(1, np.int8)) == pytest.approx(0.5 + 0.5 / (2**24 + 2), rel=0, abs=1e-16)


BIG = 2**53


def test_large_integers_keep_their_order_or_are_refused():
    ids, oods = np.array([BIG + 1, BIG + 3]), np.array([BIG, BIG + 2])
    assert auroc(ids, oods) == 0.75
    assert auroc(ids.astype(np.uint64), oods) == 0.75
    # In float64 BIG + 1 is BIG, a tie.
    with pytest.raises(UserError, match=r"id_scores holds integers above 2\^53"):
        auroc(ids, oods.astype(float))
    with pytest.raises(UserError, match=r"ood_scores holds integers above 2\^53"):
        detection_metrics(ids.astype(float), -oods)
    assert auroc(np.array([BIG]), np.array([BIG - 1.0])) == 1


@pytest.mark.parametrize(
    "bad", [torch.tensor([1j, 2j]), np.ma.masked_array([1.0, 2.0], [False, True]), np.array([1, None]), np.array(["1"])]
)
def test_what_is_no_score_is_refused(bad):
    with pytest.raises(UserError, match=r"^ood_scores "):
        detection_metrics([0.0, 1.0], bad)
