"""Made-up samples."""

from __future__ import annotations

import numpy as np


def clusters(n: int, dim: int, classes: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes around the same random means, whatever the seed of the samples."""
    means = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).normal(size=(n, dim))
    return (means[labels] + spread * noise).astype(np.float32), labels
