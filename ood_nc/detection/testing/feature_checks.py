"""What every detector of features must hold to beside what all detectors do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.testing.common import close, finite_or_refused, refusal, require
from ood_nc.detection.testing.problem import Problem, problem_for
from ood_nc.errors import NotFittedError, UserError

_ALONE = 1e-5


def _check_missing_inputs(cls: type[FeatureDetector], problem: Problem) -> None:
    if cls.needs_fit:
        refusal(cls, "score before fit", NotFittedError, lambda: cls().score(**problem.given(problem.queries)))
    given: dict[str, Any] = {"labels": problem.labels, "head": problem.head}
    for name in cls.requires & set(given):
        fit = partial(cls().fit, problem.features, **{**given, name: None}, logits=problem.logits(problem.features))
        error = refusal(cls, f"fit without {name}", MissingInputError, fit)
        require(name in str(error), cls, f"the error for missing {name} does not name it.")


def _check_wrong_width(cls: type[FeatureDetector], problem: Problem) -> None:
    if "features" not in cls.requires:
        return
    detector = problem.fit(cls())
    for rows, what in ((problem.queries[:, :-1], "fewer features"), (problem.queries[:, :, None], "feature maps")):
        score = partial(detector.score, rows, logits=problem.logits(problem.queries))
        refusal(cls, f"{what} than it was fitted on", UserError, score)


def _check_other_logits(cls: type[FeatureDetector], problem: Problem) -> None:
    if "logits" not in cls.requires:
        return
    detector, logits = problem.fit(cls()), problem.logits(problem.queries)
    for given in (logits[:, :-1], torch.cat([logits, logits], dim=1)):
        score = partial(detector.score, problem.queries, logits=given)
        error = refusal(cls, "another number of logits than in fit", UserError, score)
        require("logits per sample" in str(error), cls, "the error for another number of logits does not say so.")


def _check_shared_context(cls: type[FeatureDetector], problem: Problem) -> None:
    expected = problem.fit(cls()).score(**problem.given(problem.queries))
    logits = problem.logits(problem.features)
    train = TapStatistics(problem.features, problem.labels, logits=logits, head=problem.head)
    queries = TapQueries(problem.queries, logits=problem.logits(problem.queries))
    # Twice, so that the second time everything comes from what the first has left behind.
    for _ in range(2):
        require(torch.equal(cls().fit(train).score(queries), expected), cls, "shared statistics change the scores.")


def _check_collapsed_features(cls: type[FeatureDetector], problem: Problem) -> None:
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


def _check_half_precision(cls: type[FeatureDetector], problem: Problem) -> None:
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


def _check_autocast(cls: type[FeatureDetector], problem: Problem) -> None:
    expected = cls().fit(problem.features, problem.labels, head=problem.head).score(problem.queries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = cls().fit(problem.features, problem.labels, head=problem.head).score(problem.queries)
    require(torch.equal(scores, expected), cls, "fitted and asked under autocast it gives other scores.")


def _check_extremes(cls: type[FeatureDetector], problem: Problem) -> None:
    """Numbers at the ends of float32 and float64, also in the head: finite scores, or an error of one line."""
    top = torch.finfo(torch.float32).max
    scales: dict[str, Callable[[Tensor], Tensor]] = {
        "the top of float32": lambda rows: (rows.double() / rows.abs().max() * top).float(),
        "1e200 in float64": lambda rows: rows.double() * 1e200,
        "denormal numbers": lambda rows: rows * 1e-39,
    }
    for name, scaled in scales.items():
        queries = torch.cat([scaled(problem.queries), problem.queries])
        for train, what in (
            (problem.features, f"queries with {name}"),
            (scaled(problem.features), f"fitted on {name}"),
        ):

            def attempt(train: Tensor = train, queries: Tensor = queries) -> Tensor:
                return cls().fit(train, problem.labels, head=problem.head).score(queries)

            finite_or_refused(cls, what, attempt, may_overflow=True)
    weight = problem.head[0].clone()
    weight[1, 2] = float("nan")
    refused = finite_or_refused(
        cls,
        "a head with NaN",
        lambda: cls().fit(problem.features, problem.labels, head=(weight, problem.head[1])).score(problem.queries),
        may_overflow=True,
    )
    require(refused or not cls.requires & {"head", "logits"}, cls, "takes a head with NaN.")


def _check_devices(cls: type[FeatureDetector], problem: Problem) -> None:
    if not torch.cuda.is_available():
        return
    detector = problem.fit(cls())
    expected = detector.score(**problem.given(problem.queries))
    head = problem.head[0].cuda(), problem.head[1].cuda()
    moved = Problem(problem.features.cuda(), problem.labels.cuda(), head, problem.queries.cuda(), problem.ood.cuda())
    scores = moved.fit(cls()).score(**moved.given(moved.queries))
    require(scores.is_cuda and close(scores.cpu(), expected, 1e-5), cls, "scores differ on a GPU.")
    scores = detector.score(**moved.given(moved.queries))
    require(scores.is_cuda and close(scores.cpu(), expected, 1e-5), cls, "a CPU fit scores differently on a GPU.")
