"""The nested bootstrap: of runs that differ in their seed, and within them of the samples they are measured on."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from ood_nc.errors import UserError
from ood_nc.scores.counts import Array


def nested_means(by_seed: Array, seed: int = 0, confidence: float = 0.95) -> Array:
    """Resample seeds, and in each the samples, of a number that is a mean over seeds.

    A resample draws as many seeds as there are, with replacement, and of each drawn seed the same resample of the
    samples. Two to five seeds drawn so spread far too little: their part is widened by sqrt(S / (S - 1)), for the
    variance that a resample of S loses, and by the ratio of Student's to the normal quantile, for the few seeds it is
    estimated from. Of one seed the samples alone are resampled: nothing is said about training again.

    Args:
        by_seed: (S, 1 + R): the value of each seed, then those of R resamples of its samples, in each column the same
            resample for all seeds.
        seed: of the drawing of seeds; numbers with as many seeds draw alike, so their differences are paired.
        confidence: of the intervals that are read off.

    Returns:
        (1 + R,): the mean over seeds, then its resamples.

    Raises:
        UserError: it is not of that shape.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import nested_means
        >>> values = np.array([[0.5, 0.4, 0.6], [0.7, 0.6, 0.8]])
        >>> nested_means(values).shape, nested_means(values[:1]).tolist()
        ((3,), [0.5, 0.4, 0.6])
    """
    by_seed = np.array(by_seed, dtype=np.float64)
    if by_seed.ndim != 2 or 0 in by_seed.shape:
        raise UserError(f"Values of seeds must be (seeds, 1 + resamples), got {by_seed.shape}.")
    seeds, resamples = len(by_seed), by_seed.shape[1] - 1
    if seeds == 1:
        only: Array = by_seed[0]
        return only
    level = (1 + confidence) / 2
    widening = math.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, level) / ndtri(level)
    drawn = np.random.default_rng([seed, seeds]).integers(0, seeds, (seeds, resamples))
    values = by_seed[:, 0]
    inner = np.take_along_axis(by_seed[:, 1:], drawn, axis=0).mean(axis=0)
    outer = values[drawn].mean(axis=0) - values.mean()
    return np.append(values.mean(), inner + (widening - 1) * outer)
