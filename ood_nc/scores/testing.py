"""The conformance check of detection metrics, for those of other packages too."""

from __future__ import annotations

import numpy as np

from ood_nc.conformance import require
from ood_nc.scores.counts import Array, RankCounts
from ood_nc.scores.ranking import group_edges, measure_sorted, sort_scores
from ood_nc.scores.registry import METRICS, ScoreMetric


def check_metric(metric: ScoreMetric | str) -> None:
    """Check that a detection metric gives what results and intervals take for granted.

    On random scores, tied ones, infinite ones and single samples: a value in [0, 1]; the same value whether the groups
    of tied scores come in one stretch or in several; and for a resample, in which groups may be empty, the value of the
    scores repeated as often as they were drawn.

    Args:
        metric: or its name.

    Raises:
        CheckError: what failed.

    Example:
        >>> from ood_nc.scores import check_metric
        >>> check_metric("auroc")
    """
    found = METRICS[metric] if isinstance(metric, str) else metric
    require(bool(found.definition) and "\n" not in found.definition, _name(found), "has no definition of one line")
    generator = np.random.default_rng(0)
    for ids, oods in _problems(generator):
        _check_on(found, ids, oods, generator)


def _problems(generator: np.random.Generator) -> list[tuple[Array, Array]]:
    ids, oods = generator.normal(1, 1, 40), generator.normal(0, 1, 30)
    return [
        (ids, oods),
        (np.round(ids), np.round(oods)),
        (np.append(ids, [np.inf, -np.inf]), np.append(oods, [np.inf, -np.inf])),
        (ids + 100, oods),
        (oods, ids + 100),
        (np.zeros(5), np.zeros(7)),
        (ids[:1], oods[:1]),
    ]


def _check_on(metric: ScoreMetric, ids: Array, oods: Array, generator: np.random.Generator) -> None:
    scores = sort_scores(ids, oods)
    edges = [side[None] for side in group_edges(*scores)]
    (value,) = measure_sorted(scores, [metric])
    require(0 <= value <= 1, _name(metric), f"gives {value}, not a share in [0, 1]")
    for cut in range(1, edges[0].shape[1] - 1):
        stretches = [[side[:, : cut + 1] for side in edges], [side[:, cut:] for side in edges]]
        parts = [metric(RankCounts(len(ids), len(oods), *stretch)) for stretch in stretches]
        _compare(metric, metric.reduce(parts)[0], value, f"over two stretches of groups ({metric.reduction})")
    draws = [generator.multinomial(len(side), np.full(len(side), 1 / len(side)), size=5) for side in scores]
    before = [np.pad(draw.cumsum(axis=1), ((0, 0), (1, 0)))[:, at[0]] for draw, at in zip(draws, edges, strict=True)]
    resampled = metric.reduce([metric(RankCounts(len(ids), len(oods), *before))])
    for k, found in enumerate(resampled):
        repeated = [np.repeat(side, draw[k]) for side, draw in zip(scores, draws, strict=True)]
        _compare(metric, found, measure_sorted(sort_scores(*repeated), [metric])[0], "for a resample")


def _compare(metric: ScoreMetric, found: float, expected: float, where: str) -> None:
    require(abs(found - expected) <= 1e-9, _name(metric), f"gives {found:.6g} {where}, not {expected:.6g}")


def _name(metric: ScoreMetric) -> str:
    return f"Metric {getattr(metric.formula, '__name__', repr(metric.formula))!r}"
