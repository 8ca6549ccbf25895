"""Few-shot transfer: what is drawn, and the interval over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ood_nc.errors import UserError
from ood_nc.transfer import PROBES, few_shot, fewshot, nearest_mean_probe
from tests.helpers.samples import clusters

TRAIN, TRAIN_LABELS = clusters(80, 6, 4, 1.5, seed=1)
TEST, TEST_LABELS = clusters(100, 6, 4, 1.5, seed=2)


def test_mean_and_students_interval_over_draws() -> None:
    result = few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=5, draws=8)
    accuracies = result.correct.double().mean(dim=1).numpy()
    assert result.predictions.shape == result.correct.shape == (8, 100)
    assert np.array_equal(result.correct.numpy(), result.predictions.numpy() == TEST_LABELS)
    assert len(set(accuracies.tolist())) > 1
    low, high = stats.t.interval(0.95, 7, accuracies.mean(), stats.sem(accuracies))
    assert (result.accuracy, result.low, result.high) == pytest.approx((accuracies.mean(), low, high), rel=1e-9)
    assert result.n == 100 and result.selected == {"shots": 5, "draws": 8} and result.selected_on is None


def test_all_shots_are_the_nearest_mean_probe() -> None:
    result = few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=20, draws=3)
    whole = nearest_mean_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    assert result.accuracy == pytest.approx(whole.accuracy)
    assert result.high - result.low < 1e-9
    assert torch.equal(result.predictions, whole.predictions.expand(3, -1))


def test_each_draw_has_so_many_different_samples_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def spy(features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        drawn.append((features[:, 0].tolist(), labels.tolist()))
        return torch.zeros(len(queries), dtype=torch.long)

    monkeypatch.setattr(fewshot, "predict_by_means", spy)
    index = np.arange(80, dtype=np.float32)[:, None]
    few_shot(index, TRAIN_LABELS, index, TRAIN_LABELS, shots=3, draws=6)
    assert len(drawn) == 6 and len({tuple(samples) for samples, _ in drawn}) == 6
    for samples, labels in drawn:
        assert len(set(samples)) == 12
        assert np.bincount(labels).tolist() == [3, 3, 3, 3]
        assert [TRAIN_LABELS[int(sample)] for sample in samples] == labels


def test_more_shots_help_and_the_seed_decides() -> None:
    one, ten = (few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=shots) for shots in (1, 10))
    assert ten.accuracy > one.accuracy + 0.05
    torch.manual_seed(123)
    again = few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=1)
    assert torch.equal(one.predictions, again.predictions)
    other = few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=1, seed=1)
    assert not torch.equal(one.predictions, other.predictions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 21}, "shots is 21, but class 0 has 20 training samples"),
        ({"shots": 0}, "shots must be at least 1"),
        ({"draws": 1}, "draws at least 2, got 5 and 1"),
    ],
)
def test_mistakes_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, **options)


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_the_family_of_probes_has_its_shots_by_name(shots: int) -> None:
    result = PROBES[f"few_shot_{shots}"](TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, seed=3)
    expected = few_shot(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, shots=shots, seed=3)
    assert torch.equal(result.predictions, expected.predictions)
    right = result.correct.double().mean(dim=0).numpy()
    assert result.per_class == pytest.approx({c: right[c == TEST_LABELS].mean() for c in range(4)})
