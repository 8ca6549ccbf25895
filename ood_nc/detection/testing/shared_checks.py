"""What every detector must hold to, whether it reads features or images: each check is written once for both kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection.base import BaseDetector, DetectorInfo
from ood_nc.detection.errors import NonFiniteError
from ood_nc.detection.testing.common import close, finite_or_refused, read_only, refusal, require, saved_and_loaded
from ood_nc.detection.testing.problem import AnyProblem, problem_for
from ood_nc.errors import UserError
from ood_nc.scores.metrics import auroc

Detector = type[BaseDetector]


def _as_numpy(value: Any) -> Any:
    """Numbers and flags, also those in a tuple, as NumPy scalars."""
    if isinstance(value, tuple):
        return tuple(map(_as_numpy, value))
    return np.asarray(value)[()] if isinstance(value, (bool, int, float)) else value


def _check_declaration(cls: Detector, problem: Any) -> None:
    """Info, requirements and docstring are there."""
    require(isinstance(cls.info, DetectorInfo), cls, "info must be a DetectorInfo.")
    empty = [field.name for field in fields(cls.info) if not getattr(cls.info, field.name)]
    require(not empty, cls, f"info leaves {', '.join(empty)} empty.")
    require(isinstance(cls.requires, frozenset) and cls.requires <= cls.inputs, cls, f"requires {cls.requires!r}.")
    require(bool(cls.__doc__), cls, "has no docstring.")


def _check_parameters(cls: Detector, problem: Any) -> None:
    """Hyper-parameters can be read, set and searched by name."""
    detector = cls()
    defaults = detector.get_params()
    require(cls(**defaults).get_params() == defaults, cls, "get_params does not give back what __init__ got.")
    for name, values in detector.hyperparameters().items():
        require(name in defaults, cls, f"search space names {name!r}, which is no hyper-parameter.")
        for value in values:
            cls().set_params(**{name: value})
    numpy_values = {name: _as_numpy(value) for name, value in defaults.items()}
    for made in (cls().set_params(**numpy_values), cls(**numpy_values)):
        given = made.state_dict()["parameters"]
        same = given == defaults and all(type(given[name]) is type(value) for name, value in defaults.items())
        require(same, cls, "the state of a detector made with NumPy scalars does not hold plain values.")
    refusal(cls, "set_params with an unknown name", UserError, lambda: detector.set_params(no_such_parameter=1))


def _check_scores(cls: Detector, problem: Any) -> None:
    detector = cls()
    require(problem.fit(detector) is detector, cls, "fit must return the detector.")
    inside, outside = (detector.score(**problem.given(rows)) for rows in (problem.queries, problem.ood))
    require(inside.shape == (len(problem.queries),), cls, f"scores have shape {tuple(inside.shape)}.")
    require(inside.dtype == torch.float64, cls, f"scores are {inside.dtype}, not float64.")
    require(not inside.requires_grad, cls, "scores carry a graph.")
    require(bool(torch.isfinite(torch.cat([inside, outside])).all()), cls, "scores are not finite.")
    area = auroc(inside, outside)
    require(area > 0.7, cls, f"AUROC {area:.3f} on an easy problem: is the sign larger = more in-distribution?")
    nothing = problem.queries[:0]
    for empty in (detector.score(**problem.given(nothing)), detector.score(nothing)):
        require(empty.shape == (0,), cls, "an empty batch must give no scores.")


def _check_batch_invariance(cls: Detector, problem: Any) -> None:
    detector = problem.fit(cls())
    # Logits are taken from one product: a product of matrices is not the same to the last bit for each batch.
    given = problem.given(torch.cat([problem.queries, problem.ood]))

    def scores(rows: Any) -> Tensor:
        taken: Tensor = detector.score(**{name: array[rows] for name, array in given.items()})
        return taken

    together = scores(slice(None))
    alone = torch.cat([scores(slice(row, row + 1)) for row in range(len(together))])
    require(close(together, alone), cls, "a sample's score depends on what else is in the batch.")
    order = torch.randperm(len(together), generator=torch.Generator().manual_seed(1))
    require(close(together[order], scores(order)), cls, "scores do not follow their samples.")


def _check_determinism(cls: Detector, problem: Any) -> None:
    detector = problem.fit(cls())
    expected, second = (detector.score(**problem.given(problem.queries)) for _ in range(2))
    require(torch.equal(expected, second), cls, "scoring twice gives different scores.")
    again = problem.fit(problem_for(cls, seed=5).fit(cls()))
    same = torch.equal(again.score(**problem.given(problem.queries)), expected)
    require(same, cls, "a second fit on the same data gives different scores, or remembers the first.")


def _tensors(problem: AnyProblem) -> list[Tensor]:
    parts = [part for value in vars(problem).values() for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _check_inputs_unchanged(cls: Detector, problem: Any) -> None:
    before = copy.deepcopy(problem)
    detector = problem.fit(cls())
    expected = detector.score(**problem.given(problem.queries))
    same = all(map(torch.equal, _tensors(problem), _tensors(before)))
    require(same and not problem.queries.requires_grad, cls, "fit or score changes its inputs.")
    for tensor in _tensors(problem):
        tensor.mul_(0)
    kept = detector.score(**before.given(before.queries))
    require(torch.equal(kept, expected), cls, "a fitted detector changes with the data it was fitted on.")


def _check_layouts(cls: Detector, problem: Any) -> None:
    expected = problem.fit(cls()).score(**problem.given(problem.queries))
    views: dict[str, Callable[[Tensor], Any]] = {
        "Fortran order": lambda rows: np.asfortranarray(rows.numpy()),
        "a strided view": lambda rows: rows.repeat_interleave(2, dim=0)[::2],
        "a read-only array": lambda rows: read_only(rows.numpy()),
        "float64": lambda rows: rows.numpy().astype(np.float64),
        "reversed strides": lambda rows: rows.numpy()[::-1].copy()[::-1],
        "channels last": lambda rows: rows.to(memory_format=torch.channels_last) if rows.ndim == 4 else rows,
        "rows that carry a graph": lambda rows: rows.clone().requires_grad_(),
    }
    for name, view in views.items():
        scores = problem.fit(cls(), view=view).score(**problem.given(problem.queries, view))
        require(close(scores, expected, 1e-5), cls, f"scores differ for {name}.")


def _check_state(cls: Detector, problem: Any) -> None:
    detector = problem.fit(cls())
    expected = detector.score(**problem.given(problem.queries))
    for name, other in {"loading": saved_and_loaded(detector), "copying": copy.deepcopy(detector)}.items():
        if cls.kind == "input":
            other.attach(problem.network)
        scores = other.score(**problem.given(problem.queries))
        require(torch.equal(scores, expected), cls, f"{name} changes the scores.")


def _check_non_finite(cls: Detector, problem: Any) -> None:
    detector = problem.fit(cls())
    for value in (float("nan"), float("inf")):
        rows = problem.queries.clone()
        rows.flatten(1)[3, 2] = value
        given = problem.given(rows)
        error = refusal(cls, f"{value} in the input", NonFiniteError, lambda given=given: detector.score(**given))  # type: ignore[misc]
        require(error.first == 3 and error.count == 1, cls, "the error does not name row and count.")


def _check_degenerate_fits(cls: Detector, problem: Any) -> None:
    """Constant, single-class, dead, duplicated, too few, too wide: finite scores, or an error of one line."""
    rows, labels = problem.rows, problem.labels
    cases: dict[str, tuple[AnyProblem, Tensor, Tensor]] = {
        "constant data": (problem, torch.ones_like(rows), labels),
        "all-zero data": (problem, torch.zeros_like(rows), labels),
        "a single class": (problem, rows, torch.zeros_like(labels)),
        "a single sample": (problem, rows[:1], labels[:1]),
        "an absent class": (problem, rows[labels != 1], labels[labels != 1]),
    }
    if cls.kind == "feature":
        dead, doubled, wide = rows.clone(), rows.clone(), problem_for(cls, n=24, dim=64)
        dead[:, 1], doubled[:, 1] = 0, doubled[:, 0]
        cases["a dead feature"], cases["a duplicated feature"] = (problem, dead, labels), (problem, doubled, labels)
        cases["more features than samples"] = (wide, wide.rows, wide.labels)
    for name, (one, train, classes) in cases.items():

        def attempt(one: Any = one, train: Tensor = train, classes: Tensor = classes) -> Tensor:
            detector = one.fit(cls(), train, classes)
            queries = (one.queries, torch.zeros_like(one.queries[:2]))
            return torch.cat([detector.score(**one.given(rows)) for rows in queries])

        finite_or_refused(cls, name, attempt)
