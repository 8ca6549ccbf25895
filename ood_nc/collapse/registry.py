"""The collapse metrics by name: what each is, who defined it, what it ignores, what it needs and how it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from ood_nc.registry import Registry

if TYPE_CHECKING:
    from ood_nc.collapse.layer import Layer

Memory: TypeAlias = Literal["O(C d)", "O(C d + C^2)", "O(C d + d^2)", "features"]
Function = TypeVar("Function", bound=Callable[..., float])
RIGID, SIMILAR = ("shift", "rotation"), ("shift", "scale", "rotation")
_GIVEN = ("weight", "features", "labels", "ood")
_PARTS = ("stats", "center", "bias", *_GIVEN)


@dataclass(frozen=True)
class CollapseMetric:
    """One metric of a `CollapseReport`.

    Attributes:
        name: its name in reports and result tables.
        definition: one line.
        source: who defined it.
        collapsed: whether a smaller ("low") or larger ("high") value means more collapse; None where it does not say.
        invariances: maps of the features that leave it unchanged, of "shift", "scale", "rotation", "linear"; a rotation
            turns the rows of W and the OOD features too, a scale the OOD features, and predictions stay.
        memory: "O(C d)", "O(C d + C^2)" (the statistics stay O(C d)), "O(C d + d^2)" (needs the scatter,
            ``full=True``), or "features" (a second pass).
        compute: its value for a `Layer`; raises `UndefinedMetricError` with the reason where it has none.
        needs: arguments of `measure` beside the statistics.

    Example:
        >>> METRICS["cdnv"].definition
        'mean over pairs of (v_i + v_j) / (2 |mu_i - mu_j|^2)'
    """

    name: str
    definition: str
    source: str
    collapsed: Literal["low", "high"] | None
    invariances: tuple[str, ...]
    memory: Memory
    compute: Callable[[Layer], float] = field(repr=False)
    needs: tuple[str, ...] = ()


METRICS: Registry[CollapseMetric] = Registry(
    "collapse metric",
    "ood_nc.collapse_metrics",
    fault=lambda entry: None if isinstance(entry, CollapseMetric) else "is no CollapseMetric",
    package="ood_nc.collapse",
)
"""Every metric by name, in the order of the report. Ours are added in the files of this folder, beside the function."""


def collapse_metric(
    definition: str,
    source: str,
    compute: Callable[[Layer], float] | None = None,
    *,
    needs: tuple[str, ...] | None = None,
    collapsed: Literal["low", "high"] | None = "low",
    invariances: tuple[str, ...] = SIMILAR,
    memory: Memory = "O(C d)",
) -> Callable[[Function], Function]:
    """Function decorator: make a function of parts of a `Layer` known as the metric of its name.

    The arguments are those of `CollapseMetric`, with what most metrics have for defaults. Without ``compute`` and
    ``needs`` the function's parameters say what of the layer it reads.
    """

    def add(function: Function) -> Function:
        read = [part for part in inspect.signature(function).parameters if part in _PARTS]
        found = compute or (lambda layer: function(*(getattr(layer, part) for part in read)))
        needed = tuple(part for part in read if part in _GIVEN) if needs is None else needs
        name = function.__name__
        METRICS.add(name, CollapseMetric(name, definition, source, collapsed, invariances, memory, found, needed))
        return function

    return add
