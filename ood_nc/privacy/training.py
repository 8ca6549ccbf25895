"""Training of a linear head with per-sample clipping and Gaussian noise: full batches, or Poisson samples by Opacus."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.errors import MissingPackageError
from ood_nc.privacy.accounting import Mechanism

Head = tuple[torch.Tensor, torch.Tensor]
"""Weight (C, d) and bias (C,)."""


def noisy_gd(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    steps: int,
    learning_rate: float,
    clip: float,
    noise_multiplier: float,
    generator: torch.Generator,
) -> tuple[Head, Mechanism]:
    """Softmax regression by NoisyGD, from zero: full batches, clipped by sample, with Gaussian noise on the sum.

    W <- W - lr / N (sum_i g_i min(1, clip / |g_i|) + clip s Z) (Wang, Zhu, Su, Wang 2024, alg. 1). The gradient of a
    sample is the outer product of its error p - e_y and (x, 1), so its norm needs no gradient of its own.

    Args:
        features: (N, d), floating point.
        labels: (N,), int64.
        num_classes: C.
        steps: T.
        learning_rate: of the mean gradient.
        clip: largest 2-norm of a sample's gradient; infinite for none, which is not private.
        noise_multiplier: s; 0 for none, which is not private.
        generator: of the noise.

    Returns:
        The head, and the mechanism as it was run.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import noisy_gd
        >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
        >>> (weight, bias), run = noisy_gd(x, y, 2, steps=1, learning_rate=1.0, clip=9.0, noise_multiplier=0.0,
        ...                                generator=torch.Generator())
        >>> weight.tolist(), run.steps
        ([[0.5], [-0.5]], 1)
    """
    n, dim = features.shape
    weight, bias = features.new_zeros(num_classes, dim), features.new_zeros(num_classes)
    targets = F.one_hot(labels, num_classes).to(features.dtype)
    lengths = (features.square().sum(dim=1, keepdim=True) + 1).sqrt()
    scale = noise_multiplier * clip if noise_multiplier else 0.0
    for _ in range(steps):
        errors = F.linear(features, weight, bias).softmax(dim=1) - targets
        norms = errors.norm(dim=1, keepdim=True) * lengths
        errors *= (clip / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1)
        slope = torch.cat([errors.T @ features, errors.sum(dim=0)[:, None]], dim=1)
        if scale:
            noise = torch.randn(slope.shape, generator=generator, dtype=torch.float64)
            slope += scale * noise.to(slope)
        weight -= learning_rate / n * slope[:, :-1]
        bias -= learning_rate / n * slope[:, -1]
    return (weight, bias), Mechanism(noise_multiplier, 1.0, steps)


def sampling_rate(n: int, batch_size: int) -> float:
    """The rate at which Opacus samples ``n`` records for batches of ``batch_size`` on average: one over batches a pass.

    Example:
        >>> from ood_nc.privacy.training import sampling_rate
        >>> sampling_rate(1000, 250)
        0.25
    """
    return 1 / math.ceil(n / batch_size)


def dp_sgd(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    clip: float,
    noise_multiplier: float,
    generator: torch.Generator,
) -> tuple[Head, Mechanism]:
    """Softmax regression by DP-SGD on Poisson samples, through Opacus (Abadi et al., CCS 2016), from zero.

    A step whose sample is empty adds noise alone, and counts as every other.

    Args:
        features: (N, d), floating point.
        labels: (N,), int64.
        num_classes: C.
        steps: how many samples are drawn.
        batch_size: their mean size; see `sampling_rate`.
        learning_rate: of the sum over a sample, divided by the mean size.
        clip: as in `noisy_gd`.
        noise_multiplier: likewise.
        generator: of the samples and the noise.

    Returns:
        The head, and the mechanism as Opacus recorded it.

    Raises:
        MissingPackageError: Opacus is not installed.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import dp_sgd
        >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
        >>> (weight, bias), run = dp_sgd(x, y, 2, steps=3, batch_size=1, learning_rate=0.1, clip=1.0,
        ...                              noise_multiplier=1.0, generator=torch.Generator().manual_seed(0))
        >>> weight.shape, run.steps
        (torch.Size([2, 1]), 3)
    """
    try:
        from opacus import PrivacyEngine
        from opacus.utils.uniform_sampler import UniformWithReplacementSampler
    except ImportError:
        raise MissingPackageError("DP-SGD needs Opacus: pip install ood_nc[privacy].") from None
    rate = sampling_rate(len(features), batch_size)
    model = nn.Linear(features.shape[1], num_classes).to(features)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    sampler = UniformWithReplacementSampler(
        num_samples=len(features), sample_rate=rate, steps=steps, generator=generator
    )
    # Batches are rows of a tensor that lies in memory: a loader would fetch each by itself.
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features, labels), batch_size=batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="rdp")
        private, optimizer, _ = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=learning_rate),
            data_loader=loader,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip,
            poisson_sampling=True,
            noise_generator=generator,
        )
        for rows in sampler:
            optimizer.zero_grad()
            F.cross_entropy(private(features[rows]), labels[rows]).backward()
            optimizer.step()
    (recorded,) = engine.accountant.history
    return (model.weight.detach(), model.bias.detach()), Mechanism(*recorded)
