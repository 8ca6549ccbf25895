"""The nearest-mean probe against scikit-learn and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neighbors import NearestCentroid

from ood_nc.transfer import means, nearest_mean_probe
from tests.helpers.samples import clusters


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")
def test_equals_scikit_learn_on_digits(digits: tuple) -> None:
    train, train_labels, test, test_labels = digits
    expected = NearestCentroid().fit(train, train_labels).predict(test)
    result = nearest_mean_probe(*digits)
    assert np.array_equal(result.predictions.numpy(), expected)
    assert result.accuracy == np.mean(expected == test_labels)
    assert result.low < result.accuracy < result.high
    assert result.selected == {} and result.selected_on is None and result.weight is None


def test_two_gaussians_have_a_known_accuracy() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40_000) % 2
    features = generator.normal(size=(40_000, 3))
    features[:, 0] += np.where(labels == 1, 1.0, -1.0)
    accuracy = nearest_mean_probe(features[:20_000], labels[:20_000], features[20_000:], labels[20_000:]).accuracy
    assert accuracy == pytest.approx(norm.cdf(1), abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_common_offset_does_not_matter(dtype: type) -> None:
    train, labels = clusters(100, 5, 4, 0.5, seed=0)
    test, wanted = clusters(100, 5, 4, 0.5, seed=1)
    plain = nearest_mean_probe(train, labels, test, wanted)
    moved = nearest_mean_probe((train + 1000).astype(dtype), labels, (test + 1000).astype(dtype), wanted)
    assert torch.equal(plain.predictions, moved.predictions)


def test_blocks_and_gaps_in_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clusters(100, 5, 4, 0.5, seed=0)
    test, wanted = clusters(90, 5, 4, 0.5, seed=1)
    plain = nearest_mean_probe(train, labels * 100, test, wanted * 100)
    monkeypatch.setattr(means, "ROWS_AT_ONCE", 7)
    assert torch.equal(plain.predictions, nearest_mean_probe(train, labels * 100, test, wanted * 100).predictions)
    assert set(plain.predictions.tolist()) <= {0, 100, 200, 300}


def test_a_single_sample_is_its_class_mean() -> None:
    result = nearest_mean_probe([[0.0], [1.0], [10.0]], [0, 0, 1], [[6.0], [5.0]], [1, 0])
    assert result.accuracy == 1
