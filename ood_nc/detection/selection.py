"""Choosing a detector's hyper-parameters without a look at the test sets.

What tells good settings from bad are held-out ID samples and outliers that no result is reported on: a named validation
OOD set, or :func:`synthetic_outliers` made of the held-out ID samples themselves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_labels, as_matrix
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import check_finite
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.registry import create_feature_detector
from ood_nc.errors import UserError
from ood_nc.scores.metrics import auroc, fpr_at_tpr

SelectionMetric = Literal["auroc", "fpr95_id_positive"]
_NOISE = 3.0
"""Standard deviations of the noise of synthetic outliers, in those of a class."""
_MIXED = (0.25, 0.75)


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        parameters: the hyper-parameters that were set.
        value: of the metric; None where the trial failed.
        reason: why it failed.
    """

    parameters: Mapping[str, Any]
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Selection:
    """The setting that was chosen, and what it was chosen from.

    Attributes:
        detector: its name.
        parameters: for ``create_detector(detector, **parameters)``.
        metric: what was compared.
        value: of the metric, of the chosen setting. It is the best of many, so no estimate for fresh data.
        selected_on: which outliers told the settings apart; belongs beside every number the setting yields.
        trials: all settings, in the order they were tried.

    Example:
        See :func:`select`.

        >>> Selection("knn", {"k": 1}, "auroc", 1.0, "synthetic outliers", ()).parameters
        {'k': 1}
    """

    detector: str
    parameters: Mapping[str, Any]
    metric: str
    value: float
    selected_on: str
    trials: tuple[Trial, ...]


def select(
    name: str,
    train: TapStatistics,
    held_out: TapQueries,
    outliers: TapQueries,
    *,
    selected_on: str,
    metric: SelectionMetric = "auroc",
    space: Mapping[str, Sequence[Any]] | None = None,
    max_trials: int = 64,
    seed: int = 0,
) -> Selection:
    """Try the hyper-parameters of a detector and keep those that best tell held-out ID from the outliers.

    Equal values go to the setting with the fewest changes from the defaults, then to the one tried first. Settings that
    the detector refuses, or whose scores are NaN, stay in the record with the reason and never win.

    Args:
        name: of the detector.
        train: ID train data of the tap, to fit on.
        held_out: ID samples that are not among them, nor among those ``train`` was given to calibrate on.
        outliers: never a test set.
        selected_on: what the outliers are, in words for the results ("synthetic outliers", "validation OOD: textures").
        metric: "auroc" (largest wins) or "fpr95_id_positive" (smallest wins).
        space: values to try by hyper-parameter, all combinations. None: the detector's own, and before them its
            defaults.
        max_trials: where there are more combinations, a random choice of this size.
        seed: of that choice.

    Raises:
        UserError: unknown detector, hyper-parameter or metric, an empty space or name, or no setting that works.

    Example:
        >>> rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 5
        >>> train, held_out, outliers = TapStatistics(rows[:30]), TapQueries(rows[30:]), TapQueries(-rows[30:])
        >>> found = select("knn", train, held_out, outliers, selected_on="mirrored ID", space={"k": (1, 5)})
        >>> found.parameters, found.value
        ({'k': 1}, 1.0)
    """
    if metric not in get_args(SelectionMetric):
        raise UserError(f"Unknown selection metric {metric!r}: one of {', '.join(get_args(SelectionMetric))}.")
    if not selected_on.strip():
        raise UserError("selected_on must say what the outliers are: it belongs beside every number that results.")
    if max_trials < 1:
        raise UserError(f"max_trials must be at least 1, got {max_trials}.")
    defaults = create_feature_detector(name).get_params()

    def tried(parameters: Mapping[str, Any]) -> Trial:
        try:
            detector: FeatureDetector = create_feature_detector(name, **parameters).fit(train)
            scores = detector.score(held_out), detector.score(outliers)
            return Trial(parameters, auroc(*scores) if metric == "auroc" else fpr_at_tpr(*scores))
        except UserError as error:
            return Trial(parameters, None, str(error))

    trials = tuple(map(tried, _settings(name, space, defaults, max_trials, seed)))
    worked = [(trial, trial.value) for trial in trials if trial.value is not None]
    if not worked:
        raise UserError(f"Detector {name!r}: none of {len(trials)} settings works; the first: {trials[0].reason}")
    sign = -1 if metric == "auroc" else 1
    best, value = min(worked, key=lambda pair: (sign * pair[1], _changes(pair[0].parameters, defaults)))
    return Selection(name, best.parameters, metric, value, selected_on, trials)


def _settings(
    name: str, space: Mapping[str, Sequence[Any]] | None, defaults: Mapping[str, Any], max_trials: int, seed: int
) -> Iterator[dict[str, Any]]:
    grid = create_feature_detector(name).hyperparameters() if space is None else space
    for parameter, values in grid.items():
        if parameter not in defaults:
            # The detector's own message, which knows the nearest name.
            create_feature_detector(name, **{parameter: None})
        if not len(values):
            raise UserError(f"The search space of detector {name!r} gives no values for {parameter!r}.")
    total = math.prod(len(values) for values in grid.values())
    if space is None:
        yield {}
        max_trials -= 1
    chosen = range(total) if total <= max_trials else sorted(random.Random(seed).sample(range(total), max_trials))
    for index in chosen:
        setting = {}
        for parameter, values in grid.items():
            index, place = divmod(index, len(values))
            setting[parameter] = values[place]
        if space is not None or _changes(setting, defaults):
            yield setting


def _changes(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> int:
    return sum(value != defaults[name] for name, value in parameters.items())


def synthetic_outliers(features: ArrayLike, labels: ArrayLike | None = None, seed: int = 0) -> Tensor:
    """Outliers made of held-out ID features alone, to choose hyper-parameters on.

    A third each: two samples of different classes, every coordinate from one or the other; convex combinations of two
    such, a quarter to three quarters of each; samples with Gaussian noise of the within-class covariance and three
    times its standard deviation. They leave the classes but stay near the data, as hard real outliers do; they say
    nothing about outliers of another norm. Where no feature is negative, none of the outliers' is.

    Args:
        features: (n, d), n at least 2.
        labels: class indices (n,). None, or a single class: any two samples are mixed, and the noise has the covariance
            of all samples.
        seed: equal seeds give equal outliers.

    Returns:
        (n, d) of the features' dtype, on the CPU, the three kinds one after the other.

    Raises:
        UserError: fewer than 2 samples, shapes disagree, or features hold NaN or infinity.

    Example:
        >>> synthetic_outliers([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [6.0, 0.0]], [0, 0, 1, 1]).shape
        torch.Size([4, 2])
    """
    rows = as_matrix(features, "features").cpu()
    n = len(rows)
    if n < 2:
        raise UserError(f"Synthetic outliers need at least 2 samples, got {n}.")
    check_finite(rows, "features")
    classes = None if labels is None else as_labels(labels, n).cpu()
    if classes is not None and bool((classes == classes[0]).all()):
        classes = None
    generator = torch.Generator().manual_seed(seed)
    crossed, mixed, shifted = (n + 2) // 3, (n + 1) // 3, n // 3
    first, second = _pairs(classes, n, crossed + mixed, generator)
    share = torch.rand(crossed + mixed, 1, dtype=torch.float64, generator=generator)
    share = (_MIXED[0] + (_MIXED[1] - _MIXED[0]) * share).expand(-1, rows.shape[1]).clone()
    share[:crossed] = torch.randint(2, (crossed, rows.shape[1]), generator=generator).double()
    between = torch.lerp(rows[second].double(), rows[first].double(), share)
    statistics = TapStatistics(rows, classes)
    values, vectors = statistics.eigen if classes is None else statistics.within_eigen
    noise = torch.randn(shifted, len(values), dtype=torch.float64, generator=generator)
    origins = rows[torch.randint(n, (shifted,), generator=generator)].double()
    made = torch.cat([between, origins + _NOISE * (noise * values.sqrt()) @ vectors.T])
    if not bool((rows < 0).any()):
        made.clamp_min_(0)
    return made.to(rows.dtype)


def _pairs(classes: Tensor | None, n: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of two samples of different classes (of two samples, without classes), ``count`` times."""
    classes = torch.arange(n) if classes is None else classes
    order = classes.argsort(stable=True)
    ordered = classes[order]
    place = torch.randint(n, (count,), generator=generator)
    start = torch.searchsorted(ordered, ordered[place])
    end = torch.searchsorted(ordered, ordered[place], right=True)
    # Uniform over the places outside of the first one's class, which is a block of the order.
    step = (torch.rand(count, dtype=torch.float64, generator=generator) * (n - (end - start))).long()
    return order[place], order[(end + step) % n]
