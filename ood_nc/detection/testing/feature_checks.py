"""What every detector must hold to, ours or a plug-in: run ``check_detector(MyDetector)`` in its tests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from ood_nc.detection.base import BaseDetector
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.testing import common, input_checks, numeric_checks
from ood_nc.detection.testing.common import close, read_only, refusal, require, saved_and_loaded
from ood_nc.detection.testing.problem import Problem, fit_on, problem_for, score_on
from ood_nc.errors import NotFittedError, UserError
from ood_nc.scores.metrics import auroc

Check = Callable[[type[Any]], None]


def check_detector(cls: type[BaseDetector]) -> None:
    """Run every check of its kind on a detector class.

    Raises:
        CheckError: a check fails; the message says which and what it saw.

    Example:
        >>> from ood_nc.detection import detector_class
        >>> check_detector(detector_class("energy"))
    """
    for _, check in detector_checks(cls.kind):
        check(cls)


def detector_checks(kind: str = "feature") -> Iterator[tuple[str, Check]]:
    """Name and function of every check of a kind of detector, to parametrise a test with."""
    found = {**vars(common), **(vars(input_checks) if kind == "input" else {**vars(numeric_checks), **globals()})}
    for name, value in sorted(found.items()):
        if name.startswith("_check_"):
            yield name.removeprefix("_check_"), value


def _check_scores(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    detector = cls()
    require(fit_on(detector, problem) is detector, cls, "fit must return the detector.")
    inside, outside = (score_on(detector, problem, rows) for rows in (problem.queries, problem.ood))
    require(inside.shape == (len(problem.queries),), cls, f"scores have shape {tuple(inside.shape)}.")
    require(inside.dtype == torch.float64, cls, f"scores are {inside.dtype}, not float64.")
    require(bool(torch.isfinite(torch.cat([inside, outside])).all()), cls, "scores are not finite.")
    area = auroc(inside, outside)
    require(area > 0.7, cls, f"AUROC {area:.3f} on an easy problem: is the sign larger = more in-distribution?")
    for empty in (score_on(detector, problem, problem.queries[:0]), detector.score(problem.queries[:0])):
        require(empty.shape == (0,), cls, "an empty batch must give no scores.")


def _check_determinism(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    first, second = (score_on(fit_on(cls(), problem), problem, problem.queries) for _ in range(2))
    require(torch.equal(first, second), cls, "two fits on the same data give different scores.")
    again = fit_on(fit_on(cls(), problem_for(cls, seed=5)), problem)
    require(torch.equal(first, score_on(again, problem, problem.queries)), cls, "a second fit remembers the first.")


def _check_inputs_unchanged(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    before = copy.deepcopy(problem)
    detector = fit_on(cls(), problem)
    score_on(detector, problem, problem.queries)
    same = all(torch.equal(getattr(problem, name), getattr(before, name)) for name in ("features", "labels", "queries"))
    same = same and all(torch.equal(a, b) for a, b in zip(problem.head, before.head, strict=True))
    require(same, cls, "fit or score changes its inputs.")
    expected = score_on(detector, problem, problem.queries)
    problem.features.mul_(0)
    for part in problem.head:
        part.mul_(0)
    kept = detector.score(before.queries, logits=before.logits(before.queries))
    require(torch.equal(kept, expected), cls, "a fitted detector changes with the arrays it was fitted on.")


def _check_layouts(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    expected = score_on(fit_on(cls(), problem), problem, problem.queries)
    labels = problem.labels.numpy()
    train, queries = problem.features.numpy(), problem.queries.numpy()
    logits, query_logits = (problem.logits(torch.from_numpy(rows)).numpy() for rows in (train, queries))
    head = tuple(part.numpy() for part in problem.head)
    views: dict[str, Callable[[Any], Any]] = {
        "Fortran order": np.asfortranarray,
        "a strided view": lambda array: np.repeat(array, 2, axis=0)[::2],
        "a read-only array": read_only,
        "float64": lambda array: array.astype(np.float64),
        "reversed strides": lambda array: array[::-1].copy()[::-1],
    }
    for name, view in views.items():
        detector = cls().fit(view(train), labels, logits=view(logits), head=(view(head[0]), head[1]))
        scores = detector.score(view(queries), logits=view(query_logits))
        require(close(scores, expected, 1e-5), cls, f"scores differ for {name}.")


def _check_state(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    detector = fit_on(cls(), problem)
    expected = score_on(detector, problem, problem.queries)
    loaded = saved_and_loaded(detector)
    require(torch.equal(score_on(loaded, problem, problem.queries), expected), cls, "loading changes the scores.")
    copied = copy.deepcopy(detector)
    require(torch.equal(score_on(copied, problem, problem.queries), expected), cls, "copying changes the scores.")


def _check_missing_inputs(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    if cls.needs_fit:
        refusal(cls, "score before fit", NotFittedError, lambda: score_on(cls(), problem, problem.queries))
    given: dict[str, Any] = {"labels": problem.labels, "head": problem.head}
    for name in cls.requires & set(given):
        fit = partial(cls().fit, problem.features, **{**given, name: None}, logits=problem.logits(problem.features))
        error = refusal(cls, f"fit without {name}", MissingInputError, fit)
        require(name in str(error), cls, f"the error for missing {name} does not name it.")


def _check_wrong_width(cls: type[FeatureDetector]) -> None:
    if "features" not in cls.requires:
        return
    problem = problem_for(cls)
    detector = fit_on(cls(), problem)
    for rows, what in ((problem.queries[:, :-1], "fewer features"), (problem.queries[:, :, None], "feature maps")):
        score = partial(detector.score, rows, logits=problem.logits(problem.queries))
        refusal(cls, f"{what} than it was fitted on", UserError, score)


def _check_other_logits(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    if "logits" not in cls.requires:
        return
    detector, logits = fit_on(cls(), problem), problem.logits(problem.queries)
    for given in (logits[:, :-1], torch.cat([logits, logits], dim=1)):
        score = partial(detector.score, problem.queries, logits=given)
        error = refusal(cls, "another number of logits than in fit", UserError, score)
        require("logits per sample" in str(error), cls, "the error for another number of logits does not say so.")


def _check_shared_context(cls: type[FeatureDetector]) -> None:
    problem = problem_for(cls)
    expected = score_on(fit_on(cls(), problem), problem, problem.queries)
    logits = problem.logits(problem.features)
    train = TapStatistics(problem.features, problem.labels, logits=logits, head=problem.head)
    queries = TapQueries(problem.queries, logits=problem.logits(problem.queries))
    # Twice, so that the second time everything comes from what the first has left behind.
    for _ in range(2):
        require(torch.equal(cls().fit(train).score(queries), expected), cls, "shared statistics change the scores.")


def _check_devices(cls: type[FeatureDetector]) -> None:
    if not torch.cuda.is_available():
        return
    problem = problem_for(cls)
    detector = fit_on(cls(), problem)
    expected = score_on(detector, problem, problem.queries)
    moved = Problem(
        problem.features.cuda(),
        problem.labels.cuda(),
        (problem.head[0].cuda(), problem.head[1].cuda()),
        problem.queries.cuda(),
        problem.ood.cuda(),
    )
    scores = score_on(fit_on(cls(), moved), moved, moved.queries)
    require(scores.is_cuda and close(scores.cpu(), expected, 1e-5), cls, "scores differ on a GPU.")
    scores = score_on(detector, moved, moved.queries)
    require(scores.is_cuda and close(scores.cpu(), expected, 1e-5), cls, "a CPU fit scores differently on a GPU.")
