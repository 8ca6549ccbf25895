"""NoisyGD against a slow loop over autograd and Opacus; DP-SGD counts empty samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ood_nc.privacy import Mechanism, dp_sgd, epsilon_of, noisy_gd


def data(n: int = 40, dim: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % classes
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, dim), labels


def slow(x: torch.Tensor, y: torch.Tensor, classes: int, steps: int, rate: float, clip: float) -> torch.Tensor:
    weight = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)
    for _ in range(steps):
        total = torch.zeros_like(weight)
        for sample, label in zip(x, y, strict=True):
            tracked = weight.clone().requires_grad_()
            F.cross_entropy((tracked @ torch.cat([sample, torch.ones(1)]))[None], label[None]).backward()
            total += tracked.grad * min(1.0, clip / float(tracked.grad.norm()))
        weight = weight - rate / len(x) * total
    return weight


@pytest.mark.parametrize("clip", [0.3, 1.5, math.inf])
def test_noisy_gd_without_noise_is_the_slow_loop(clip: float) -> None:
    x, y = data()
    settings = {"steps": 4, "learning_rate": 2.0, "clip": clip, "noise_multiplier": 0.0}
    (weight, bias), run = noisy_gd(x, y, 3, **settings, generator=torch.Generator())
    assert torch.allclose(torch.cat([weight, bias[:, None]], dim=1), slow(x, y, 3, 4, 2.0, clip), atol=1e-12)
    assert run == Mechanism(0.0, 1.0, 4)


def test_the_noise_has_the_stated_size() -> None:
    x, y = data(n=20, dim=400)
    settings = {"steps": 1, "learning_rate": 3.0, "clip": 0.5}
    plain, noisy = (
        noisy_gd(x, y, 3, **settings, noise_multiplier=s, generator=torch.Generator().manual_seed(0))[0] for s in (0, 7)
    )
    gap = torch.cat([(noisy[0] - plain[0]).flatten(), noisy[1] - plain[1]])
    assert gap.std().item() == pytest.approx(3.0 / 20 * 0.5 * 7, rel=0.08)


def test_one_full_batch_of_opacus_is_one_step_of_noisy_gd() -> None:
    pytest.importorskip("opacus")
    x, y = data()
    settings = {"steps": 3, "learning_rate": 2.0, "clip": 0.8, "noise_multiplier": 0.0}
    ours, _ = noisy_gd(x, y, 3, **settings, generator=torch.Generator())
    theirs, run = dp_sgd(x, y, 3, batch_size=len(x), **settings, generator=torch.Generator())
    assert run == Mechanism(0.0, 1.0, 3)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)  # Opacus adds 1e-6 to every norm


def test_empty_samples_add_noise_and_are_counted() -> None:
    pytest.importorskip("opacus")
    x, y = data(n=4, dim=300)
    steps = 60
    settings = {"steps": steps, "batch_size": 1, "learning_rate": 1.0, "clip": 0.01}
    drawn = torch.Generator().manual_seed(0)
    (weight, _), run = dp_sgd(x, y, 3, **settings, noise_multiplier=5.0, generator=drawn)
    assert run == Mechanism(5.0, 0.25, steps)  # (3/4)^4 = 32 % of the samples are empty
    assert torch.isfinite(weight).all()
    assert weight.std().item() == pytest.approx(5.0 * 0.01 * math.sqrt(steps), rel=0.1)
    assert epsilon_of([run], 1e-5, "rdp") > epsilon_of([run._replace(steps=40)], 1e-5, "rdp")
