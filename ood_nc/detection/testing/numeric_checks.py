"""What every feature detector must hold to in its numbers: in half precision, collapsed, degenerate and extreme."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ood_nc.detection.errors import NonFiniteError
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.testing.common import close, finite_or_refused, refusal, require
from ood_nc.detection.testing.problem import Problem, fit_on, problem_for, score_on

_ALONE = 1e-5


def _check_batch_invariance(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    detector = fit_on(cls(), problem)
    rows = torch.cat([problem.queries, problem.ood])
    # The logits are the caller's, and a product of matrices is itself not the same to the last bit for each batch.
    logits = problem.logits(rows)
    together = detector.score(rows, logits=logits)
    parts = zip(rows.split(1), logits.split(1), strict=True)
    alone = torch.cat([detector.score(row, logits=row_logits) for row, row_logits in parts])
    require(close(together, alone), cls, "a sample's score depends on what else is in the batch.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    shuffled = detector.score(rows[order], logits=logits[order])
    require(close(together[order], shuffled), cls, "scores do not follow their rows.")


def _check_collapsed_features(cls: type[FeatureDetector]) -> None:
    """Scored one at a time, collapsed features keep the scores they have in the batch."""
    problem = problem_for(cls, n=600, dim=512, classes=10, spread=1e-3)
    detector = cls().fit(problem.features, problem.labels, head=problem.head)
    rows = torch.cat([problem.queries[:12], problem.ood[:12]])
    together = detector.score(rows)
    alone = torch.cat([detector.score(row) for row in rows.split(1)])
    apart = float(((together - alone).abs() / torch.maximum(together.abs(), alone.abs()).clamp_min(1e-12)).max())
    require(
        apart <= _ALONE, cls, f"one at a time, collapsed features get other scores than in the batch ({apart:.1e})."
    )


def _check_half_precision(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    for dtype in (torch.float16, torch.bfloat16):
        narrow, query_logits = problem.features.to(dtype), problem.logits(problem.queries).to(dtype)
        logits = problem.logits(problem.features).to(dtype)
        scores = [
            cls()
            .fit(train, problem.labels, logits=train_logits, head=problem.head)
            .score(queries, logits=wanted_logits)
            for train, train_logits, queries, wanted_logits in (
                (narrow, logits, problem.queries.to(dtype), query_logits),
                (narrow.float(), logits.float(), problem.queries.to(dtype).float(), query_logits.float()),
            )
        ]
        require(close(scores[0], scores[1]), cls, f"{dtype} gives other scores than the same numbers in float32.")


def _check_non_finite(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    detector = fit_on(cls(), problem)
    for value in (float("nan"), float("inf")):
        rows = problem.queries.clone()
        rows[3, 2] = value
        score = partial(detector.score, rows, logits=problem.logits(rows))
        error = refusal(cls, f"{value} in the input", NonFiniteError, score)
        require(error.first == 3 and error.count == 1, cls, "the error does not name row and count.")


def _check_degenerate_fits(cls: type[FeatureDetector]) -> None:
    """Constant, single-class, dead, duplicated, too few, too wide: finite scores, or an error of one line."""
    base = problem_for(cls)
    dead, doubled = base.features.clone(), base.features.clone()
    dead[:, 1] = 0
    doubled[:, 1] = doubled[:, 0]
    wide = problem_for(cls, n=24, dim=64)
    cases = {
        "constant features": (base, torch.ones_like(base.features), base.labels),
        "all-zero features": (base, torch.zeros_like(base.features), base.labels),
        "a single class": (base, base.features, torch.zeros_like(base.labels)),
        "a dead feature": (base, dead, base.labels),
        "a duplicated feature": (base, doubled, base.labels),
        "a single sample": (base, base.features[:1], base.labels[:1]),
        "an absent class": (base, base.features[base.labels != 1], base.labels[base.labels != 1]),
        "more features than samples": (wide, wide.features, wide.labels),
    }
    for name, (problem, features, labels) in cases.items():

        def attempt(problem: Problem = problem, features: Tensor = features, labels: Tensor = labels) -> Tensor:
            detector = cls().fit(features, labels, logits=problem.logits(features), head=problem.head)
            queries = (problem.queries, torch.zeros(2, features.shape[1]))
            return torch.cat([score_on(detector, problem, rows) for rows in queries])

        finite_or_refused(cls, name, attempt)


def _check_extremes(cls: type[FeatureDetector]) -> None:
    """Numbers at the ends of float32 and float64, also in the head: finite scores, or an error of one line."""
    usual = problem_for(cls)
    top = torch.finfo(torch.float32).max
    scales: dict[str, Callable[[Tensor], Tensor]] = {
        "the top of float32": lambda rows: (rows.double() / rows.abs().max() * top).float(),
        "1e200 in float64": lambda rows: rows.double() * 1e200,
        "denormal numbers": lambda rows: rows * 1e-39,
    }
    for name, scaled in scales.items():
        queries = torch.cat([scaled(usual.queries), usual.queries])
        for train, what in ((usual.features, f"queries with {name}"), (scaled(usual.features), f"fitted on {name}")):

            def attempt(train: Tensor = train, queries: Tensor = queries) -> Tensor:
                return cls().fit(train, usual.labels, head=usual.head).score(queries)

            finite_or_refused(cls, what, attempt, may_overflow=True)
    weight = usual.head[0].clone()
    weight[1, 2] = float("nan")
    refused = finite_or_refused(
        cls,
        "a head with NaN",
        lambda: cls().fit(usual.features, usual.labels, head=(weight, usual.head[1])).score(usual.queries),
        may_overflow=True,
    )
    require(refused or not cls.requires & {"head", "logits"}, cls, "takes a head with NaN.")
