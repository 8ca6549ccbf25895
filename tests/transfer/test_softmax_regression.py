"""The minimiser against scikit-learn at its tightest, and its parts against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from ood_nc.transfer import _softmax_regression as regression
from ood_nc.transfer._softmax_regression import Blocks, curvature_of, evaluate, minimise, standardise
from tests.helpers.samples import clusters

FEATURES, LABELS = (torch.from_numpy(array) for array in clusters(700, 12, 4, 1.5, seed=0))
SAMPLES = standardise(3 * FEATURES * torch.arange(1, 13) + 50, LABELS)
BLOCKS = Blocks.of(SAMPLES, torch.arange(700))
ROWS = SAMPLES.rows(torch.arange(700)).double()
ZERO = torch.zeros(4, 13)


def objective(parameters: torch.Tensor, penalty: float) -> torch.Tensor:
    parameters = parameters.double()
    logits = ROWS @ parameters[:, :-1].T + parameters[:, -1]
    return F.cross_entropy(logits, LABELS) + penalty / 2 * parameters[:, :-1].square().sum()


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_comes_to_the_optimum_of_scikit_learn(penalty: float) -> None:
    reference = LogisticRegression(C=1 / (penalty * 700), tol=1e-10, max_iter=10_000).fit(ROWS.numpy(), LABELS.numpy())
    optimum = torch.from_numpy(np.hstack([reference.coef_, reference.intercept_[:, None]]))
    for tolerance, distance in ((1e-3, 0.3), (1e-6, 1e-2)):
        found = minimise(BLOCKS, ZERO, penalty, curvature_of(BLOCKS), tolerance)
        # The decrement is an estimate, from the curvature as far as it is known.
        assert -1e-9 < objective(found, penalty) - objective(optimum, penalty) < 10 * tolerance
        probabilities = (ROWS @ found[:, :-1].double().T + found[:, -1]).softmax(dim=1)
        assert np.abs(probabilities.numpy() - reference.predict_proba(ROWS.numpy())).max() < distance


def test_a_warm_start_at_the_optimum_stays_there() -> None:
    curvature = curvature_of(BLOCKS)
    found = minimise(BLOCKS, ZERO, 1e-2, curvature, 1e-6)
    assert torch.equal(minimise(BLOCKS, found, 1e-2, curvature, 1e-4), found)


def test_samples_that_do_not_fit_in_memory_are_standardised_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "ROWS_AT_ONCE", 90)
    held = Blocks.of(SAMPLES, torch.arange(700))
    expected = minimise(held, ZERO, 1e-2, curvature_of(held), 1e-6)
    monkeypatch.setattr(regression, "HELD", 0)
    blocks = Blocks.of(SAMPLES, torch.arange(700))
    assert held.held is not None and blocks.held is None
    assert torch.equal(minimise(blocks, ZERO, 1e-2, curvature_of(blocks), 1e-6), expected)
    torch.testing.assert_close(minimise(BLOCKS, ZERO, 1e-2, curvature_of(BLOCKS), 1e-6), expected, atol=2e-3, rtol=0)


def test_a_part_is_those_samples() -> None:
    part = BLOCKS.part(slice(100, 300))
    assert torch.equal(torch.cat(list(part.rows())), SAMPLES.rows(torch.arange(100, 300)))
    assert torch.equal(torch.cat(list(part.labels())), LABELS[100:300])


def test_the_curvature_of_few_dimensions_is_the_second_moment() -> None:
    slope = torch.randn(4, 13, generator=torch.Generator().manual_seed(0))
    solved = curvature_of(BLOCKS).solve(slope, 0.2, 1e-2).double()
    moment = 0.2 * ROWS.T @ ROWS / 700 + 1e-2 * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(solved[:, :-1] @ moment, slope[:, :-1].double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(solved[:, -1], slope[:, -1].double() / 0.2)


def test_the_curvature_of_many_dimensions_keeps_the_leading_ones() -> None:
    rows = torch.randn(3000, 100, generator=torch.Generator().manual_seed(0)) * 0.8 ** torch.arange(100)
    samples = standardise(rows, torch.zeros(3000, dtype=torch.long))
    blocks = Blocks.of(samples, torch.arange(3000))
    found, dense = curvature_of(blocks), torch.linalg.eigvalsh(blocks.held.T @ blocks.held / 3000).flip(0)
    assert found.directions.shape == (100, regression.DIRECTIONS)
    torch.testing.assert_close(found.values.flip(0)[:20], dense[:20], rtol=1e-3, atol=0)
    assert float(found.values.sum() + 36 * found.rest) == pytest.approx(100, rel=1e-4)


def test_evaluate() -> None:
    parameters = torch.randn(3, 4, 13, generator=torch.Generator().manual_seed(0))
    some = torch.arange(0, 700, 3)
    accuracies, losses = evaluate(Blocks.of(SAMPLES, some), parameters)
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
    blocks = Blocks.of(samples, torch.arange(10))
    assert minimise(blocks, torch.zeros(2, 4), 1.0, curvature_of(blocks), 1e-6).abs().max() < 1e-6
