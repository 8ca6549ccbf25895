"""Every metric of ours passes the conformance check, and each way of breaking the protocol fails it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from ood_nc import collapse
from ood_nc.collapse import (
    METRICS,
    ClassStatistics,
    CollapseMetric,
    UndefinedMetricError,
    check_collapse_metric,
    measure,
)
from ood_nc.collapse.layer import Layer
from ood_nc.conformance import CheckError
from ood_nc.errors import UserError


@pytest.mark.parametrize("name", list(METRICS))
def test_ours(name: str) -> None:
    assert METRICS[name].name == name
    check_collapse_metric(name)


def test_a_description_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        METRICS["cdnv"].name = "other"  # type: ignore[misc]
    with pytest.raises(UserError, match=r"Unknown collapse metric 'cdnw'\. Did you mean 'cdnv'"):
        METRICS["cdnw"]


def test_every_metric_has_a_function_of_its_name() -> None:
    for name in METRICS:
        assert callable(getattr(collapse, name.removesuffix("_uncentered"))), name
    for name in collapse.__all__:
        assert inspect.getdoc(getattr(collapse, name)), name


def spread(layer):
    return float(layer.stats.class_variances.max() / layer.stats.class_variances.mean())


GOOD = CollapseMetric(
    "spread", "largest over mean class variance", "here", None, ("shift", "scale", "rotation"), "O(C d)", spread
)


def test_a_good_one() -> None:
    check_collapse_metric(dataclasses.replace(GOOD, compute=lambda layer: spread(layer) if _varies(layer) else _none()))


def _varies(layer):
    return float(layer.stats.class_variances.sum()) > 0


def _none():
    raise UndefinedMetricError("no variance.")


def greedy(layer):
    torch.as_tensor(layer.weight).mul_(2)
    return 1.0


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"compute": spread}, "gives nan for features that are all 0"),
        (
            {"compute": lambda layer: spread(layer) + 0 / (_varies(layer) or 0)},
            "raises ZeroDivisionError for features",
        ),
        ({"compute": lambda layer: _none()}, "gives None where everything is there"),
        ({"compute": lambda layer: float(torch.rand(()))}, "for one layer"),
        ({"compute": greedy}, "changes what it is given"),
        ({"compute": lambda layer: float(torch.as_tensor(layer.weight).sum())}, "does not say that it needs weight"),
        ({"needs": ("weight",)}, "needs weight, and has a value without it"),
        ({"needs": ("wait",)}, "known are bias, features"),
        ({"memory": "O(C d + d^2)"}, "says memory="),
        ({"memory": "O(1)"}, "has memory="),
        ({"compute": lambda layer: float(layer.stats.within.trace())}, "says memory="),
        ({"compute": lambda layer: float(layer.stats.global_mean.sum())}, "says that a shift leaves it"),
        ({"invariances": ("linear",)}, "says that a linear leaves it"),
        ({"collapsed": "up"}, "has collapsed='up'"),
        (
            {"compute": lambda layer: float(layer.stats.scatter_traces.sum()), "collapsed": "high", "invariances": ()},
            "says 'high'",
        ),
        ({"definition": ""}, "leaves name, definition or source empty"),
    ],
)
def test_broken(changes: dict, seen: str) -> None:
    with pytest.raises(CheckError, match=f"^Collapse metric 'spread' .*{seen}"):
        check_collapse_metric(dataclasses.replace(GOOD, **changes))


@pytest.mark.parametrize("value", [lambda layer: 1 / 0, lambda layer: None, lambda layer: "much"])
def test_one_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch, value: Callable[[Layer], Any]) -> None:
    entries = {**METRICS._entries, "failing": dataclasses.replace(METRICS["cdnv"], name="failing", compute=value)}
    monkeypatch.setattr(METRICS, "_entries", entries)
    stats = ClassStatistics(2, 2).update([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [4.0, 2.0]], [0, 0, 1, 1])
    report = measure(stats)
    assert report.failing is None and "Error: " in report.reasons["failing"] and report.cdnv is not None
