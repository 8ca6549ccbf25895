"""The stacked trainer against torch's own AdamW and cross-entropy, one setting at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss

from ood_nc.transfer._softmax_regression import BATCH_SIZE, SMOOTHING, Setting, evaluate, standardise, train
from tests.helpers.samples import clusters

GRID = [Setting(1e-3, 0.0), Setting(1e-2, 1.0), Setting(1e-1, 1e-2)]
FEATURES, LABELS = (torch.from_numpy(array) for array in clusters(700, 12, 4, 1.5, seed=0))
SAMPLES = standardise(3 * FEATURES + 50, LABELS)


def reference(setting: Setting, epochs: int, seed: int) -> torch.Tensor:
    """A plain torch loop over the same batches, in float64."""
    rows = 3 * FEATURES.double() + 50
    rows = (rows - rows.mean(dim=0)) / rows.var(dim=0, correction=0).mean().sqrt()
    layer = torch.nn.Linear(12, 4, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(700, generator=generator).tensor_split(math.ceil(700 / BATCH_SIZE)):
            optimizer.zero_grad()
            F.cross_entropy(layer(rows[batch]), LABELS[batch], label_smoothing=SMOOTHING).backward()
            optimizer.step()
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()


def test_equals_torchs_adamw_for_every_setting() -> None:
    *_, parameters = train(SAMPLES, torch.arange(700), 4, GRID, 8, seed=3)
    assert parameters.shape == (3, 4, 13)
    for setting, ours in zip(GRID, parameters, strict=True):
        torch.testing.assert_close(ours.double(), reference(setting, 8, seed=3), rtol=1e-3, atol=1e-4)


def test_comes_to_the_optimum_of_the_smoothed_loss() -> None:
    rows = SAMPLES.rows(torch.arange(700)).double()

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        logits = rows @ parameters[:, :-1].T + parameters[:, -1]
        return F.cross_entropy(logits, LABELS, label_smoothing=SMOOTHING)

    optimum = torch.zeros(4, 13, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([optimum], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = loss(optimum)
        value.backward()
        return value

    solver.step(closure)
    *_, parameters = train(SAMPLES, torch.arange(700), 4, [Setting(1e-2, 0.0)], 60, seed=0)
    assert 0 <= loss(parameters[0].double()) - loss(optimum) < 1e-3


def test_evaluate() -> None:
    parameters = torch.randn(3, 4, 13, generator=torch.Generator().manual_seed(0))
    some = torch.arange(0, 700, 3)
    accuracies, losses = evaluate(SAMPLES, some, parameters)
    for setting in range(3):
        logits = SAMPLES.rows(some) @ parameters[setting, :, :-1].T + parameters[setting, :, -1]
        expected = accuracy_score(LABELS[some], logits.argmax(dim=1))
        assert accuracies[setting].item() == pytest.approx(expected, abs=1e-12)
        probabilities = logits.double().softmax(dim=1)
        assert losses[setting].item() == pytest.approx(log_loss(LABELS[some], probabilities), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_standardise(dtype: torch.dtype) -> None:
    features = (FEATURES * torch.arange(12) + 7).to(dtype)
    samples = standardise(features, LABELS)
    rows = samples.rows(torch.arange(700)).double()
    assert rows.mean(dim=0).abs().max() < 1e-5
    assert rows.square().mean().item() == pytest.approx(1, rel=1e-5)
    # One number for all dimensions: their ratio stays.
    ratio = rows.std(dim=0) / features.double().std(dim=0)
    torch.testing.assert_close(ratio[1:], ratio[1].expand(11), rtol=1e-3, atol=0)


def test_features_that_are_all_alike_stay_finite() -> None:
    samples = standardise(torch.full((10, 3), 4.0), torch.arange(10) % 2)
    assert not samples.rows(torch.arange(10)).any()
