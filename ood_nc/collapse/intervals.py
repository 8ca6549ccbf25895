"""Intervals for collapse metrics from one pass: statistics kept in shards, and the delete-one-shard jackknife."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from scipy.special import stdtrit

from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.collapse._common import UndefinedMetricError
from ood_nc.collapse._pending import check_finite
from ood_nc.collapse.registry import METRICS
from ood_nc.collapse.report import measure
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


@dataclass(frozen=True)
class Interval:
    """A metric with its jackknife interval.

    Attributes:
        value: the metric on all samples.
        low: lower end.
        high: upper end.
        error: standard error.
        bias: how far the number of samples has moved the value from that of the population; ``low`` and ``high`` lie
            around ``value - bias``, so with few samples the value itself may be outside.

    Example:
        >>> from ood_nc.collapse import Interval
        >>> Interval(value=0.5, low=0.4, high=0.7, error=0.05, bias=-0.02).high
        0.7
    """

    value: float
    low: float
    high: float
    error: float
    bias: float


class ShardedStatistics:
    """`ClassStatistics` in several shards of the same stream, for intervals without a second pass.

    The samples of a class go to the shards in turn, from a seeded start, so that every shard holds an equal share of
    every class. Two layers, or two models, that see the same samples in the same order fill their shards alike: their
    difference is then paired. Costs one accumulation and ``shards`` times the memory of `ClassStatistics`.

    Args:
        num_classes: number of classes C.
        dim: number of feature columns d.
        shards: number of shards; more give a steadier standard error, up to the samples of the smallest class.
        seed: of the start of each class.
        options: ``device``, ``full`` and ``exact`` of `ClassStatistics`.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ShardedStatistics
        >>> rows, labels = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> sharded = ShardedStatistics(2, 2, shards=5).update(rows, labels)
        >>> sharded.total().num_samples, [stats.num_samples for stats in sharded.leave_one_out()]
        (60, [48, 48, 48, 48, 48])
    """

    def __init__(self, num_classes: int, dim: int, *, shards: int = 20, seed: int = 0, **options: Any) -> None:
        if shards < 2:
            raise UserError(f"shards must be at least 2, got {shards}.")
        self.shards = [ClassStatistics(num_classes, dim, **options) for _ in range(shards)]
        generator = torch.Generator().manual_seed(seed)
        self._next = torch.randint(shards, (num_classes,), generator=generator)

    def update(self, features: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> ShardedStatistics:
        """Add one batch with class indices and return itself; arguments and errors as `ClassStatistics.update`."""
        matrix = as_matrix(features)
        classes = as_labels(labels, len(matrix), num_classes=len(self._next)).cpu()
        check_finite(matrix)
        given = None if weights is None else as_tensor(weights, "weights")
        turn = (self._next[classes] + _occurrence(classes)) % len(self.shards)
        for number, shard in enumerate(self.shards):
            rows = (turn == number).nonzero().flatten().to(matrix.device)
            if len(rows):
                shard.update(matrix[rows], classes[rows.cpu()], None if given is None else given[rows.to(given.device)])
        counts = torch.bincount(classes, minlength=len(self._next))
        self._next = (self._next + counts) % len(self.shards)
        return self

    def total(self) -> ClassStatistics:
        """Statistics of all samples."""
        return _merged(self.shards)

    def leave_one_out(self) -> Iterator[ClassStatistics]:
        """Statistics of all samples but those of one shard, shard after shard."""
        return _left_out(self.shards, None)

    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> ShardedStatistics:
        """Give every process the shards of all processes' samples, in place, and return itself.

        Each process must have filled its own with the same number of shards.
        """
        for shard in self.shards:
            shard.all_reduce(group)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state as tensors, for `torch.save` or safetensors."""
        state = {"next": self._next.clone()}
        for number, shard in enumerate(self.shards):
            state |= {f"{number}.{name}": tensor for name, tensor in shard.state_dict().items()}
        return state

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, torch.Tensor], *, device: torch.device | str = "cpu"
    ) -> ShardedStatistics:
        """Rebuild the statistics that `state_dict` described.

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            number, _, rest = name.partition(".")
            if number.isdecimal():
                parts.setdefault(int(number), {})[rest] = tensor
        if "next" not in state or sorted(parts) != list(range(len(parts))) or len(parts) < 2:
            raise UserError("not the state of sharded statistics: the start of the classes or a shard is missing.")
        shards = [ClassStatistics.from_state_dict(parts[number], device=device) for number in range(len(parts))]
        sharded = cls(shards[0].num_classes, shards[0].dim, shards=len(shards), full=False)
        sharded.shards = shards
        sharded._next = state["next"].cpu().clone()
        return sharded


def metric_intervals(
    sharded: ShardedStatistics, metrics: Collection[str], *, confidence: float = 0.95, **arguments: Any
) -> dict[str, Interval]:
    """Return metrics with delete-one-shard jackknife intervals (Quenouille 1956, Tukey 1958).

    With K shards and t_k the metric without shard k, the squared standard error is (K - 1)/K sum_k (t_k - mean t)^2 and
    the bias (K - 1) (mean t - value): few samples make class means that absorb a part of the noise, and most metrics
    too small. The interval is value - bias -+ the t quantile (K - 1 degrees of freedom) times the error. It covers the
    sampling of features within classes, not training.

    Args:
        sharded: the statistics.
        metrics: names of `METRICS` that need the statistics alone, or W and b.
        confidence: of the interval.
        arguments: ``weight``, ``bias``, ``center`` of `measure`.

    Raises:
        UserError: an unknown metric, or a confidence outside (0, 1).
        UndefinedMetricError: a metric is undefined, on all samples or without one shard.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ShardedStatistics, metric_intervals
        >>> rows, labels = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> sharded = ShardedStatistics(2, 2, shards=5).update(rows, labels)
        >>> interval = metric_intervals(sharded, ["trace_within"])["trace_within"]
        >>> interval.low < interval.value < interval.high
        True
    """
    values, replicates = _replicates(sharded, metrics, arguments)
    return {name: _interval(values[name], [row[name] for row in replicates], confidence) for name in _checked(metrics)}


def difference_intervals(
    first: ShardedStatistics,
    second: ShardedStatistics,
    metrics: Collection[str],
    *,
    confidence: float = 0.95,
    first_arguments: dict[str, Any] | None = None,
    second_arguments: dict[str, Any] | None = None,
) -> dict[str, Interval]:
    """Return the paired differences first - second of metrics of two layers or runs that saw the same samples.

    The jackknife is approximate. 95 % intervals of 20 shards covered the true difference in 800 simulations (400
    samples of 4 classes in 3 dimensions, where every metric is skewed) this often: within_share 94 %, cdnv 94 %,
    vci 95 %, nc2_norm 95 %, nc1_pinv 91 %.

    Args:
        first: statistics of one layer or run.
        second: of the other; same number of shards and seed, filled from the same samples in the same order.
        metrics: as `metric_intervals`.
        confidence: of the interval.
        first_arguments: arguments of `measure` for the first.
        second_arguments: for the second.

    Raises:
        UserError: the two were not filled alike.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ShardedStatistics, difference_intervals
        >>> rows, labels = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> sharded = ShardedStatistics(2, 2, shards=5).update(rows, labels)
        >>> other = ShardedStatistics(2, 2, shards=5).update(2 * rows, labels)
        >>> difference_intervals(other, sharded, ["trace_within"])["trace_within"].low > 0
        True
    """
    alike = len(first.shards) == len(second.shards) and all(
        torch.equal(a.counts.cpu(), b.counts.cpu()) for a, b in zip(first.shards, second.shards, strict=True)
    )
    if not alike:
        raise UserError(
            "the two statistics hold different samples in their shards: fill both with the same samples in the same "
            "order, with the same number of shards and seed."
        )
    values, replicates = _replicates(first, metrics, first_arguments or {})
    others, other_replicates = _replicates(second, metrics, second_arguments or {})
    return {
        name: _interval(
            values[name] - others[name],
            [a[name] - b[name] for a, b in zip(replicates, other_replicates, strict=True)],
            confidence,
        )
        for name in _checked(metrics)
    }


def _replicates(
    sharded: ShardedStatistics, metrics: Collection[str], arguments: dict[str, Any]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    names = _checked(metrics)
    values = _defined(sharded.total(), names, arguments)
    return values, [_defined(stats, names, arguments) for stats in sharded.leave_one_out()]


def _defined(stats: ClassStatistics, names: list[str], arguments: dict[str, Any]) -> dict[str, float]:
    report = measure(stats, metrics=names, **arguments)
    values = report.to_dict()
    for name in names:
        if values[name] is None:
            raise UndefinedMetricError(f"{name} has no interval: {report.reasons[name]}")
    return {name: value for name, value in values.items() if value is not None}


def _interval(value: float, replicates: list[float], confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be between 0 and 1, got {confidence}.")
    count = len(replicates)
    mean = sum(replicates) / count
    error = math.sqrt((count - 1) / count * sum((one - mean) ** 2 for one in replicates))
    bias = (count - 1) * (mean - value)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(value, value - bias - reach, value - bias + reach, error, bias)


def _checked(metrics: Collection[str]) -> list[str]:
    for name in metrics:
        if METRICS[name].memory == "features":
            raise UserError(f"{name} needs a second pass over the features: no interval from the statistics.")
    return list(metrics)


def _merged(shards: list[ClassStatistics]) -> ClassStatistics:
    total = deepcopy(shards[0])
    for shard in shards[1:]:
        total.merge(shard)
    return total


def _occurrence(classes: torch.Tensor) -> torch.Tensor:
    """How often each entry's value came before it."""
    order = classes.argsort(stable=True)
    ordered = classes[order]
    starts = torch.searchsorted(ordered, ordered)
    result = torch.empty_like(classes)
    result[order] = torch.arange(len(classes)) - starts
    return result


def _left_out(shards: list[ClassStatistics], rest: ClassStatistics | None) -> Iterator[ClassStatistics]:
    """Yield ``rest`` plus all ``shards`` but one, by halves: K log K merges in place of K^2."""
    if len(shards) == 1:
        assert rest is not None
        yield rest
        return
    middle = len(shards) // 2
    for kept, merged in ((shards[:middle], shards[middle:]), (shards[middle:], shards[:middle])):
        yield from _left_out(kept, _merged(merged if rest is None else [rest, *merged]))
