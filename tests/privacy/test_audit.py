"""The audit never exceeds what is stated, comes near it, and catches a head with less noise than it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.privacy import audited_epsilon, epsilon_of, noisy_gd

DELTA, STEPS, CLIP = 1e-5, 3, 1.0


def scores(noise: float, runs: int = 250) -> tuple[list[float], list[float]]:
    """The weight of heads trained with and without a record that alone has its last coordinate."""
    x, y = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1]], torch.tensor([0, 1, 0, 1])
    canary = torch.tensor([[0.0, 0, 0, 100]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found: tuple[list[float], list[float]] = [], []
    settings = {"steps": STEPS, "learning_rate": 0.01, "clip": CLIP, "noise_multiplier": noise, "generator": generator}
    for _ in range(runs):
        for heads, (features, labels) in zip(
            found, [(torch.cat([x, canary]), torch.cat([y, y[:1]])), (x, y)], strict=True
        ):
            (weight, _), _ = noisy_gd(features, labels, 2, **settings)
            # As if divided by the same public number of records.
            heads.append(float(weight[0, 3] - weight[1, 3]) * len(features))
    return found


def stated(noise: float) -> float:
    settings = {"steps": STEPS, "learning_rate": 0.01, "clip": CLIP, "noise_multiplier": noise}
    _, run = noisy_gd(torch.eye(2), torch.tensor([0, 1]), 2, **settings, generator=torch.Generator())
    return epsilon_of([run], DELTA)


@pytest.mark.parametrize("noise", [0.8, 1.5])
def test_the_audit_never_exceeds_the_stated_epsilon(noise: float) -> None:
    assert 0.2 < audited_epsilon(*scores(noise), DELTA) < stated(noise)


def test_the_audit_catches_too_little_noise() -> None:
    assert audited_epsilon(*scores(noise=0.4), DELTA) > stated(4.0)


def test_bound_against_randomized_response_and_chance() -> None:
    generator = np.random.default_rng(0)
    epsilon, n = 1.0, 20_000
    honest = math.exp(epsilon) / (1 + math.exp(epsilon))
    inside = (generator.random(n) < honest).astype(float)
    outside = (generator.random(n) >= honest).astype(float)
    assert 0.9 < audited_epsilon(inside, outside, 0.0) <= epsilon
    assert audited_epsilon(generator.normal(size=n), generator.normal(size=n), 0.0) < 0.1
    with pytest.raises(UserError, match="at least four"):
        audited_epsilon([1.0], [0.0], 1e-5)
    for scores_out, settings in (([math.nan] * 9, {}), ([0.0] * 9, {"confidence": 95.0})):
        with pytest.raises(UserError, match="no NaN, and shares"):
            audited_epsilon([1.0] * 9, scores_out, 1e-5, **settings)
