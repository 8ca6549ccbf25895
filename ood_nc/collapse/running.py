"""Running estimates from training batches: what a metric would be on the full set, while the features move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed

from ood_nc.collapse.layer import Layer
from ood_nc.collapse.registry import METRICS
from ood_nc.collapse.statistics import ClassStatistics

_LARGEST = 1e15
"""Features beyond it are of no network that will recover, and their squares are still within float32."""


class RunningStatistics:
    """Class statistics of drifting features, from training batches with forgetting, as the full set would have them.

    Sigma_W is pooled over pairs of one class *within a batch*, with n - 1 degrees of freedom for n of them: unbiased,
    and no movement of the class means from step to step is counted as variance. The class means are averages over
    about the last ``horizon`` samples. Their own noise, Sigma_c / n_c, would count as between-class scatter, so it is
    taken out of the singular values of the centred means, down to what the full set has of it (`remove_noise`).

    Batches add to a sum; `fold` joins the sums of all processes, forgets, and moves the average on.

    Args:
        counts: samples of each class in the full set (C,).
        dim: feature columns d.
        horizon: samples after which a batch counts for 1/e.
        device: where the float64 sums live, O(C d + d^2) of them.

    Example:
        >>> running = RunningStatistics([2, 2], dim=1, horizon=1e9)
        >>> running.update(torch.tensor([[0.0], [2.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1]))
        >>> running.fold()
        >>> round(running.value("nc1_ratio"), 3)  # of the same four samples
        0.16
    """

    def __init__(
        self, counts: torch.Tensor | list[int], dim: int, *, horizon: float, device: torch.device | str = "cpu"
    ) -> None:
        self.counts = torch.as_tensor(counts, dtype=torch.float64, device=device)
        classes = len(self.counts)
        sizes = {"sums": (classes, dim), "scatter": (dim, dim), "mass": (classes,), "pairs": (), "squares": (classes,)}
        self.horizon = horizon
        self._average = {
            name: torch.zeros(size, dtype=torch.float64, device=device)
            for name, size in {**sizes, "origin": (dim,)}.items()
        }
        # The squares of the weights of samples, which say how many a mean is worth, have no sum of their own.
        self._pending = {name: torch.zeros_like(self._average[name]) for name in sizes if name != "squares"}

    @torch.no_grad()
    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch, (B, d) and class indices (B,). One that is not finite is left out, on the device."""
        with torch.autocast(features.device.type, enabled=False):
            rows, labels = features.float().to(self.counts.device), labels.to(self.counts.device)
            counts = _within_range(rows)
            wide = torch.where(counts, rows, 0.0).double()
            weight = counts.double()
            same = labels[:, None] == labels
            sizes, first = same.sum(dim=1).double(), same.int().argmax(dim=1)
            sums = torch.zeros_like(wide).index_add_(0, first, wide)  # in no memory of C d, of which most is empty
            deviations = (wide - sums[first] / sizes[:, None]).float()
            self._pending["scatter"] += (deviations.T @ deviations).double()
            self._pending["pairs"] += (1 - 1 / sizes).sum() * weight
            self._pending["mass"].index_add_(0, labels, weight.expand(len(wide)))
            self._pending["sums"].index_add_(0, labels, wide)

    @torch.no_grad()
    def fold(self, *, joint: bool = True) -> None:
        """Take the batches since the last call into the average.

        Args:
            joint: the batches of all processes, which then must call it together; else those of this one.
        """
        fresh = {name: _joined(tensor) if joint else tensor for name, tensor in self._pending.items()}
        kept = math.exp(-float(fresh["mass"].sum()) / self.horizon)
        for name, tensor in fresh.items():
            self._average[name].mul_(kept).add_(tensor)
        self._average["squares"].mul_(kept**2).add_(fresh["mass"])
        self._pending = {name: torch.zeros_like(tensor) for name, tensor in self._pending.items()}

    @property
    def ready(self) -> bool:
        """Whether every class of the full set was met, and pairs of one class."""
        return bool((self._average["mass"][self.counts > 0] > 0).all() and self._average["pairs"] > 0)

    def statistics(self) -> ClassStatistics:
        """The statistics of the full set, estimated; every class has the pooled within-class variance."""
        there = self.counts > 0
        counts, mass = self.counts[there], self._average["mass"][there]
        within = self._average["scatter"] / self._average["pairs"]
        means = self._average["sums"][there] / mass[:, None]
        excess = (self._average["squares"][there] / mass.square() - 1 / counts).mean().clamp_min(0)
        means = remove_noise(means, within * excess)
        freedom = 1 - 1 / counts
        state = {
            "counts": counts,
            "means": means,
            "class_scatter": within.trace() * counts * freedom,
            "scatter": within * (counts * freedom).sum(),
            "num_samples": counts.sum().long(),
            "resolution": torch.tensor(float(torch.finfo(torch.float32).eps), dtype=torch.float64),
        }
        return ClassStatistics.from_state_dict(state, device=self.counts.device)

    def value(self, metric: str) -> float:
        """The estimate of a metric of `METRICS` that needs the statistics alone.

        Raises:
            UndefinedMetricError: it has none.
        """
        return METRICS[metric].compute(Layer(self.statistics()))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: everything, a sum that waits included."""
        return {"average": dict(self._average), "pending": dict(self._pending)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._average, self._pending = (
            {name: state[part][name].to(tensor) for name, tensor in own.items()}
            for part, own in (("average", self._average), ("pending", self._pending))
        )


def remove_noise(means: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Class means whose scatter about their mean has lost what the noise of each, of covariance ``noise``, added to it.

    For independent noise of C means, the Gram matrix of the centred means grows by tr(noise) along every direction of
    its own; where the features have fewer dimensions than that, the scatter grows by (C - 1) noise instead. The squared
    singular values are lowered by this, to a tenth of themselves at most; the mean of the means stays.

    Args:
        means: (C, d), float64.
        noise: covariance of one class mean (d, d).

    Example:
        >>> means = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        >>> round(remove_noise(means, torch.tensor([[0.5]], dtype=torch.float64)).square().sum().item(), 6)
        1.5
    """
    center = means.mean(dim=0)
    left, lengths, axes = torch.linalg.svd(means - center, full_matrices=False)
    if len(means) - 1 <= means.shape[1]:
        grown = noise.trace().expand_as(lengths)
    else:
        grown = (len(means) - 1) * ((axes @ noise) * axes).sum(dim=1)
    squares = lengths.square()
    shrunk = torch.maximum(squares - grown, squares / 10).sqrt()
    shrunk[min(len(means) - 1, means.shape[1]) :] = 0
    return torch.add(center, (left * shrunk) @ axes)


def _within_range(rows: torch.Tensor) -> torch.Tensor:
    """Whether no entry is NaN, infinite or too large, as a tensor."""
    return rows.abs().amax() <= _LARGEST


def _joined(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, the same in each."""
    total = tensor.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total
