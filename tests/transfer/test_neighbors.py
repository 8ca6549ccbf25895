"""The k-NN probe against scikit-learn and a float64 loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ood_nc.errors import UserError
from ood_nc.transfer import knn_probe, neighbors
from tests.helpers.samples import clusters

TRAIN, TRAIN_LABELS = clusters(120, 6, 4, 1.0, seed=1)
TEST, TEST_LABELS = clusters(60, 6, 4, 1.0, seed=2)


def slow(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, temperature: float) -> list[int]:
    def unit(row: np.ndarray) -> np.ndarray:
        row = row.astype(np.float64)
        return row / (math.sqrt(row @ row) or 1.0)

    out = []
    for query in queries:
        cosines = sorted(
            ((unit(row) @ unit(query), label) for row, label in zip(bank, labels, strict=True)), reverse=True
        )
        votes: dict[int, float] = {}
        for cosine, label in cosines[:k]:
            votes[label] = votes.get(label, 0) + math.exp((cosine - 1) / temperature)
        out.append(max(votes, key=votes.__getitem__))
    return out


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0), (50, 0.01)])
def test_equals_scikit_learn_on_digits(digits: tuple, k: int, temperature: float) -> None:
    train, train_labels, test, test_labels = digits
    oracle = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp(-distance / temperature), algorithm="brute"
    ).fit(train.astype(np.float64), train_labels)
    result = knn_probe(*digits, k=k, temperature=temperature)
    expected = oracle.predict(test.astype(np.float64))
    assert np.array_equal(result.predictions.numpy(), expected)
    assert result.accuracy == np.mean(expected == test_labels)
    assert result.selected == {"k": k, "temperature": temperature} and result.selected_on is None


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_a_slow_loop_whatever_the_offset(offset: float, dtype: type) -> None:
    train, test = (TRAIN + offset).astype(dtype), (TEST + offset).astype(dtype)
    result = knn_probe(train, TRAIN_LABELS, test, TEST_LABELS, k=7)
    assert result.predictions.tolist() == slow(train, TRAIN_LABELS, test, 7, 0.07)


def test_cosines_are_exact_for_tight_features() -> None:
    generator = np.random.default_rng(0)
    bank = torch.from_numpy((generator.normal(size=(500, 32)) + 1000).astype(np.float32))
    queries = torch.from_numpy((generator.normal(size=(50, 32)) + 1000).astype(np.float32))
    centre = neighbors._unit(bank).mean(dim=0)
    shifted = neighbors._centred(queries, centre)
    shifted[:, -1] = 1
    ours = shifted @ neighbors._centred(bank, centre).T
    exact = neighbors._unit(queries) @ neighbors._unit(bank).T - (neighbors._unit(queries) @ centre)[:, None]
    spread = (exact.max() - exact.min()).item()
    assert spread < 1e-5
    assert (ours - exact).abs().max() < 1e-4 * spread


def test_zero_rows_have_cosine_zero() -> None:
    train = np.array([[1.0, 0.2], [0.0, 0.0], [-1.0, 0.1]])
    result = knn_probe(train, [0, 1, 2], np.array([[0.5, 0.0], [-0.3, 0.0], [0.0, 0.0]]), [0, 2, 0], k=1)
    assert result.predictions[:2].tolist() == [0, 2]
    # Orthogonal beats opposite, so the zero row is the neighbour of what points away from all others.
    away = knn_probe(train[:2], [0, 1], np.array([[-1.0, -0.2], [1.0, 0.2]]), [1, 0], k=1)
    assert away.accuracy == 1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = knn_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    monkeypatch.setattr(neighbors, "SIMILARITIES_AT_ONCE", 500)
    monkeypatch.setattr(neighbors, "QUERIES_AT_ONCE", 13)
    monkeypatch.setattr(neighbors, "ROWS_AT_ONCE", 17)
    parts = knn_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    assert torch.equal(whole.predictions, parts.predictions)
    alone = knn_probe(TRAIN, TRAIN_LABELS, TEST[:1], TEST_LABELS[:1])
    assert alone.predictions[0] == whole.predictions[0]


def test_layouts_and_the_input_stays() -> None:
    kept = TRAIN.copy()
    expected = knn_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS).predictions
    for same in (np.asfortranarray(TRAIN), TRAIN.astype(np.float64), torch.from_numpy(TRAIN)):
        assert torch.equal(knn_probe(same, TRAIN_LABELS, TEST, TEST_LABELS).predictions, expected)
    assert np.array_equal(TRAIN, kept)


@pytest.mark.parametrize("k", [0, 20])
def test_k_must_fit_the_training_set(k: int) -> None:
    with pytest.raises(UserError, match=rf"k is {k}, but there are 10 training samples"):
        knn_probe(TRAIN[:10], TRAIN_LABELS[:10], TEST, TEST_LABELS, k=k)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(UserError, match="temperature must be positive"):
        knn_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, temperature=0)


def test_classes_on_one_side_only() -> None:
    labels = np.where(TRAIN_LABELS == 3, 7, TRAIN_LABELS)
    result = knn_probe(TRAIN, labels, TEST, TEST_LABELS)
    assert result.unseen == 15 and not result.correct[torch.from_numpy(TEST_LABELS == 3)].any()
    assert set(result.predictions.tolist()) <= {0, 1, 2, 7}
