from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from ood_nc.collapse import ClassStatistics, UndefinedMetricError, effective_rank, pabs, pabs_conv
from ood_nc.collapse.spectrum import moment_spectra
from ood_nc.errors import UserError


def slow_rank(matrix: np.ndarray) -> float:
    lengths = np.linalg.svd(matrix, compute_uv=False)
    shares = lengths[lengths > 1e-9 * lengths[0]]
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("dim", [1, 2, 7, 40])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_both_spectra_are_those_of_the_two_moments(dim: int, offset: float) -> None:
    rng = np.random.default_rng(dim)
    features, labels = rng.normal(size=(90, dim)) + offset * rng.normal(size=dim), np.arange(90) % 4
    if offset == 0:
        # Its own mirror image has the mean 0, and no axis to turn to.
        features, labels = np.concatenate([features, -features]), np.concatenate([labels, labels])
    found = moment_spectra(ClassStatistics(4, dim).update(features, labels))
    for values, rows in ((found.centered, features - features.mean(axis=0)), (found.uncentered, features)):
        expected = np.linalg.eigvalsh(rows.T @ rows / len(rows))
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-14 * expected[-1])


def test_effective_rank_is_that_of_the_singular_values() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 7)) * np.arange(1, 8) + 3
    stats = ClassStatistics(3, 7).update(features, np.arange(90) % 3)
    assert effective_rank(stats) == pytest.approx(slow_rank(features - features.mean(0)), rel=1e-8)
    assert effective_rank(stats, centered=False) == pytest.approx(slow_rank(features), rel=1e-8)


def test_exact_collapse_has_rank_c_minus_1_centred_and_c_not() -> None:
    classes = 5
    means = np.eye(8)[:classes] * 2.0
    stats = ClassStatistics(classes, 8).update(np.repeat(means, 6, axis=0), np.repeat(np.arange(classes), 6))
    assert effective_rank(stats) == pytest.approx(classes - 1, rel=1e-6)
    assert effective_rank(stats, centered=False) == pytest.approx(classes, rel=1e-6)


def test_equal_features_have_no_rank() -> None:
    stats = ClassStatistics(2, 3).update(np.ones((4, 3)), [0, 1, 0, 1])
    with pytest.raises(UndefinedMetricError, match="equal"):
        effective_rank(stats)


def test_principal_angles_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    means, weight = rng.normal(size=(3, 8)), rng.normal(size=(5, 8))
    axes = np.linalg.svd(weight)[2][:3]
    expected = np.cos(subspace_angles(means.T, axes.T)).mean()
    assert pabs(means, weight) == pytest.approx(expected, rel=1e-9)
    stats = ClassStatistics(3, 8).update(means, [0, 1, 2])
    assert pabs(stats, weight) == pytest.approx(expected, rel=1e-9)
    assert pabs(means, means) == pytest.approx(1, abs=1e-9)
    assert pabs(np.eye(6)[:2], np.eye(6)[3:5]) == pytest.approx(0, abs=1e-12)


def test_of_a_convolution_in_the_space_of_its_input_channels() -> None:
    rng = np.random.default_rng(2)
    means, weight = rng.normal(size=(4, 6, 5, 5)), rng.normal(size=(7, 6, 3, 3))
    left = np.linalg.svd(means.transpose(1, 0, 2, 3).reshape(6, -1), full_matrices=False)[0][:, :2]
    right = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1), full_matrices=False)[0][:, :2]
    assert pabs_conv(means, weight, rank=2) == pytest.approx(np.cos(subspace_angles(left, right)).mean(), rel=1e-9)
    assert pabs_conv(means, weight) == pytest.approx(1, abs=1e-9)  # rank 10 of 6 channels: the whole space


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(UserError, match="pabs_conv"):
        pabs(np.zeros((2, 3, 4)), np.zeros((2, 4)))
    with pytest.raises(UserError, match="share C_in"):
        pabs_conv(np.zeros((2, 3, 4, 4)), np.zeros((2, 4, 3, 3)))
    with pytest.raises(UndefinedMetricError, match="0"):
        pabs(np.zeros((2, 4)), np.eye(4))


def test_unequal_classes_and_rotations_change_no_rank() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), [70, 15, 5])
    features = rng.normal(size=(3, 6))[labels] * 3 + rng.normal(size=(90, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for centered, matrix in ((True, features - features.mean(0)), (False, features)):
        for turned in (features, features @ turn):
            stats = ClassStatistics(3, 6).update(turned, labels)
            assert effective_rank(stats, centered=centered) == pytest.approx(slow_rank(matrix), rel=1e-8)


def test_a_far_offset_changes_the_centred_rank_by_less_than_1e_6() -> None:
    features = np.random.default_rng(4).normal(size=(90, 7))
    labels = np.arange(90) % 3
    near = effective_rank(ClassStatistics(3, 7).update(features, labels))
    assert effective_rank(ClassStatistics(3, 7).update(features + 1e4, labels)) == pytest.approx(near, rel=1e-6)


def test_float32_exact_collapse_has_no_directions_of_rounding() -> None:
    rng = np.random.default_rng(5)
    means = np.linalg.qr(rng.normal(size=(16, 6)))[0].T.astype(np.float32)
    stats = ClassStatistics(6, 16).update(means[np.arange(60) % 6], np.arange(60) % 6)
    assert effective_rank(stats) == pytest.approx(5, rel=1e-5)
    assert effective_rank(stats, centered=False) == pytest.approx(6, rel=1e-5)


def test_features_of_zeros_and_a_missing_scatter_have_no_rank() -> None:
    with pytest.raises(UndefinedMetricError, match="are 0"):
        effective_rank(ClassStatistics(2, 3).update(np.zeros((4, 3)), [0, 1, 0, 1]), centered=False)
    with pytest.raises(UndefinedMetricError, match="full=False"):
        effective_rank(ClassStatistics(2, 3, full=False).update(np.eye(3)[:2], [0, 1]))


def test_directions_that_one_side_lacks_count_as_0() -> None:
    assert pabs(np.eye(6)[:1], np.eye(6)[:3], rank=2) == pytest.approx(0.5)
    assert pabs(np.eye(6)[:4], np.eye(6)[:1]) == pytest.approx(0.25)
    assert pabs(np.ones((5, 2)), np.eye(2)) == pytest.approx(0.5)  # at most d angles


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_1_is_refused(rank: int) -> None:
    with pytest.raises(UserError, match="rank must be at least 1"):
        pabs(np.eye(3), np.eye(3), rank=rank)
    with pytest.raises(UserError, match="rank must be at least 1"):
        pabs_conv(np.ones((2, 3, 4, 4)), np.ones((2, 3, 1, 1)), rank=rank)
