"""What every collapse metric must hold to: ``check_collapse_metric(mine)`` in the tests of a package that adds one."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ood_nc.collapse._common import UndefinedMetricError
from ood_nc.collapse.layer import Layer
from ood_nc.collapse.registry import METRICS, CollapseMetric, Memory
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.conformance import require, run_checks

_CLASSES, _DIM = 5, 7
_MAPS = ("shift", "scale", "rotation", "linear")
Array = NDArray[Any]


def check_collapse_metric(metric: CollapseMetric | str) -> None:
    """Check a metric, or the registered one of that name: its value, needs, memory, invariances, direction, extremes.

    Raises:
        CheckError: it breaks the protocol; the message says how.
        UserError: no metric of that name.

    Example:
        >>> check_collapse_metric("cdnv")
    """
    checks = (_check_value, _check_needs, _check_memory, _check_invariances, _check_direction, _check_extremes)
    run_checks(METRICS, metric, (_check_declaration, *checks))


def _problem(spread: float = 1.0, *, etf: bool = False) -> dict[str, Array]:
    """Five classes, two of them small, around random means or a simplex ETF, with a head and OOD samples."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(_CLASSES), [60, 50, 40, 6, 5])
    means = np.eye(_CLASSES, _DIM) if etf else 2 * rng.normal(size=(_CLASSES, _DIM))
    features = means[labels] + spread * rng.normal(size=(len(labels), _DIM))
    weight, bias = rng.normal(size=(_CLASSES, _DIM)), rng.normal(size=_CLASSES)
    predictions = (features @ weight.T + bias).argmax(1)
    ood = rng.normal(size=(30, _DIM)) + 1
    return {
        "features": features, "labels": labels, "weight": weight, "bias": bias, "predictions": predictions, "ood": ood,
    }  # fmt: skip


def _value(metric: CollapseMetric, given: dict[str, Array], *, left_out: str = "", full: bool = True) -> float | None:
    """The value, None where it is undefined."""
    stats = ClassStatistics(_CLASSES, _DIM, full=full).update(given["features"], given["labels"])
    dropped = {"predictions", "weight"} if left_out == "predictions or weight" else {left_out}
    layer = Layer(stats, **{name: part for name, part in given.items() if name not in dropped})  # type: ignore[arg-type]
    try:
        return metric.compute(layer)
    except UndefinedMetricError:
        return None


def _close(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None and math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9)


def _check_declaration(metric: CollapseMetric, what: str) -> None:
    require(bool(metric.name and metric.definition and metric.source), what, "leaves name, definition or source empty")
    require(metric.collapsed in ("low", "high", None), what, f"has collapsed={metric.collapsed!r}")
    require(set(metric.invariances) <= set(_MAPS), what, f"has the invariances {metric.invariances!r}")
    require(metric.memory in get_args(Memory), what, f"has memory={metric.memory!r}")
    known = {*_problem(), "predictions or weight"}
    require(set(metric.needs) <= known, what, f"needs {metric.needs!r}: known are {', '.join(sorted(known))}")


def _check_value(metric: CollapseMetric, what: str) -> None:
    given = _problem()
    before = {name: part.copy() for name, part in given.items()}
    first, second = _value(metric, given), _value(metric, given)
    require(isinstance(first, float) and math.isfinite(first), what, f"gives {first!r} where everything is there")
    require(first == second, what, f"gives {first} and then {second} for one layer")
    same = all(np.array_equal(part, before[name]) for name, part in given.items())
    require(same, what, "changes what it is given")


def _check_needs(metric: CollapseMetric, what: str) -> None:
    given = _problem()
    for need in metric.needs:
        require(_value(metric, given, left_out=need) is None, what, f"needs {need}, and has a value without it")
    for name in ("weight", "labels", "ood"):
        if not any(name in need for need in metric.needs):
            layer_value = _value(metric, given, left_out="" if name == "labels" else name)
            require(layer_value is not None, what, f"does not say that it needs {name}")


def _check_memory(metric: CollapseMetric, what: str) -> None:
    needs_scatter = _value(metric, _problem(), full=False) is None
    said = metric.memory == "O(C d + d^2)"
    require(
        needs_scatter == said, what, f"says memory={metric.memory!r}, and full=False leaves it as it is or undefined"
    )


def _check_invariances(metric: CollapseMetric, what: str) -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(_DIM, _DIM)))[0]
    mixed = np.random.default_rng(2).normal(size=(_DIM, _DIM)) + 3 * np.eye(_DIM)
    given = _problem()
    features, weight, ood = given["features"], given["weight"], given["ood"]
    changes = {
        "shift": {"features": features + 10},
        "scale": {"features": features * 8, "ood": ood * 8},
        "rotation": {"features": features @ turn, "weight": weight @ turn, "ood": ood @ turn},
        "linear": {"features": features @ mixed},
    }
    before = _value(metric, given)
    for name in metric.invariances:
        after = _value(metric, {**given, **changes[name]})
        require(_close(before, after), what, f"says that a {name} leaves it, which takes {before} to {after}")


def _check_direction(metric: CollapseMetric, what: str) -> None:
    if metric.needs or metric.collapsed is None:
        return
    loose, tight = (_value(metric, _problem(spread, etf=True)) for spread in (1.0, 0.05))
    moved = (
        loose is not None and tight is not None and (tight <= loose if metric.collapsed == "low" else tight >= loose)
    )
    require(moved, what, f"goes from {loose} to {tight} as features collapse, and says {metric.collapsed!r}")


def _check_extremes(metric: CollapseMetric, what: str) -> None:
    """Finite or undefined, whatever the features; any other error is a fault."""
    given = _problem()
    features = given["features"].astype(np.float32)
    extremes = {
        "features that are all 0": features * 0,
        "features that are all alike": features * 0 + 3,
        "features of 1e-30": features * np.float32(1e-30),
        "features near the top of float32": features * np.float32(2e37),
        "features of 1e100": given["features"] * 1e100,
    }
    for case, changed in extremes.items():
        try:
            value = _value(metric, {**given, "features": changed, "ood": changed[:9]})
        except Exception as error:
            require(False, what, f"raises {type(error).__name__} for {case}, not an UndefinedMetricError")
        require(value is None or math.isfinite(value), what, f"gives {value} for {case}")
        scaled = case.startswith(("features of", "features near")) and "scale" in metric.invariances
        if scaled and metric.memory != "features" and not metric.needs:
            require(
                _close(value, _value(metric, given)), what, f"says that a scale leaves it, and gives {value} for {case}"
            )
