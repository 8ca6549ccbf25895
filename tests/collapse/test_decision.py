from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    nc4_bias,
    nc4_ncc,
    nc5_ortho,
    ncc_accuracy,
    nearest_means,
)
from ood_nc.errors import UserError


def sample(seed: int = 0, n: int = 200, d: int = 6, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)), labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_nearest_class_mean_is_that_of_scikit_learn(dtype: type) -> None:
    features, labels = sample()
    stats = ClassStatistics(4, 6).update(features, labels)
    fresh = sample(1)[0].astype(dtype)
    expected = NearestCentroid().fit(features, labels).predict(fresh)
    assert np.array_equal(nearest_means(stats, fresh).numpy(), expected)
    assert ncc_accuracy(stats, fresh, labels) == pytest.approx((expected == labels).mean())
    predictions = (labels + (np.arange(200) < 50)) % 4
    assert nc4_ncc(stats, fresh, predictions) == pytest.approx((expected != predictions).mean())


def test_a_large_offset_in_float64_changes_no_decision() -> None:
    features, labels = sample()
    plain = nearest_means(ClassStatistics(4, 6).update(features, labels), features)
    shifted = nearest_means(ClassStatistics(4, 6).update(features + 1e4, labels), features + 1e4)
    assert torch.equal(plain, shifted)


def test_classes_without_samples_are_never_nearest_and_ties_go_to_the_smaller_index() -> None:
    stats = ClassStatistics(3, 1).update(torch.tensor([[-1.0], [1.0]]), [0, 2])
    assert nearest_means(stats, torch.tensor([[-0.1], [0.0], [0.1]])).tolist() == [0, 0, 2]
    one = ClassStatistics(3, 1).update(torch.tensor([[5.0]]), [1])
    assert nearest_means(one, torch.tensor([[-9.0]])).tolist() == [1]


def test_the_bias_metric_is_the_norm_of_the_logits_of_the_mean_of_means() -> None:
    features, labels = sample()
    keep = np.r_[0:200][(labels > 0) | (np.arange(200) < 40)]  # unequal class sizes: the mean of means is unweighted
    stats = ClassStatistics(4, 6).update(features[keep], labels[keep])
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    center = np.mean([features[keep][labels[keep] == c].mean(0) for c in range(4)], axis=0)
    assert nc4_bias(stats, weight, bias) == pytest.approx(np.linalg.norm(weight @ center + bias), rel=1e-12)
    assert nc4_bias(stats, weight) == nc4_bias(stats, weight, np.zeros(4))
    with pytest.raises(UserError, match="bias must have shape"):
        nc4_bias(stats, weight, np.zeros(3))


def test_orthogonality_to_ood_features() -> None:
    features, labels = sample()
    stats = ClassStatistics(4, 6).update(features, labels)
    ood = np.random.default_rng(5).normal(size=(50, 6)) + 1
    mean = ood.mean(0)
    cosines = []
    for c in range(4):
        mu = features[labels == c].mean(0)
        cosines.append(abs(mu @ mean) / np.linalg.norm(mu) / np.linalg.norm(mean))
    assert nc5_ortho(stats, ood) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert nc5_ortho(stats, mean) == pytest.approx(nc5_ortho(stats, ood), rel=1e-12)
    with pytest.raises(UndefinedMetricError, match="no direction"):
        nc5_ortho(stats, np.zeros((3, 6)))
    with pytest.raises(UserError, match="6 columns"):
        nc5_ortho(stats, np.zeros((3, 5)))


def test_wrong_or_no_samples() -> None:
    stats = ClassStatistics(2, 3).update(np.eye(3)[:2], [0, 1])
    with pytest.raises(UserError, match="columns"):
        nearest_means(stats, np.zeros((2, 4)))
    with pytest.raises(UndefinedMetricError, match="no samples"):
        ncc_accuracy(stats, np.zeros((0, 3)), np.zeros(0, dtype=int))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25, 1e30])
def test_float32_features_whose_products_leave_its_range_get_the_same_class(scale: float) -> None:
    features, labels = sample()
    tiny_or_huge = (features * scale).astype(np.float32)
    stats = ClassStatistics(4, 6).update(tiny_or_huge, labels)
    expected = nearest_means(ClassStatistics(4, 6).update(features, labels), features)
    assert torch.equal(nearest_means(stats, tiny_or_huge), expected)


def test_means_that_float32_cannot_tell_apart_are_told_apart() -> None:
    means = np.array([[1000.0, 0, 0], [1000.0, 1e-4, 0]])
    stats = ClassStatistics(2, 3).update(means, [0, 1])
    samples = np.array([[1000, 4e-5, 0], [1000, 6e-5, 0], [990, 6e-5, 3]], dtype=np.float32)
    assert nearest_means(stats, samples).tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_judged_by_their_own_values(dtype: torch.dtype) -> None:
    features, labels = sample()
    stats = ClassStatistics(4, 6).update(features, labels)
    rounded = torch.from_numpy(sample(2)[0]).to(dtype)
    assert torch.equal(nearest_means(stats, rounded), nearest_means(stats, rounded.double()))


def test_relaxed_products_and_autocast_change_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = sample()
    stats = ClassStatistics(4, 6).update(features, labels)
    fresh = torch.from_numpy(sample(1)[0]).float()
    expected = nearest_means(stats, fresh)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_means(stats, fresh), expected)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert torch.equal(nearest_means(stats, fresh), expected)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = sample()
    stats = ClassStatistics(4, 6).update(features, labels)
    for bad in (np.nan, np.inf):
        features[7, 2] = bad
        with pytest.raises(UserError, match="row 7 holds NaN or infinity"):
            nearest_means(stats, features)


def test_no_ood_features_have_no_mean() -> None:
    stats = ClassStatistics(2, 3).update(np.eye(3)[:2], [0, 1])
    with pytest.raises(UndefinedMetricError, match="no OOD samples"):
        nc5_ortho(stats, np.zeros((0, 3)))
