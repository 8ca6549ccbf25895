"""Long tables made up by hand."""

from __future__ import annotations

from typing import Any

from ood_nc.evaluation.results import make_row


def collapse_row(
    tap: str, value: float | None, *, metric: str = "nc1_pinv", run: str = "a", depth: int = 0, **more: Any
) -> dict[str, Any]:
    row = {"run": run, "seed": 0, "protocol": "strict", "tap": tap, "depth": depth, "kind": "collapse"}
    return make_row(
        row | {"dataset": "id_train", "group": "id", "method": "head", "metric": metric, "value": value} | more
    )


def detection_row(tap: str, dataset: str, value: float | None, *, run: str = "a", **more: Any) -> dict[str, Any]:
    row = {"run": run, "seed": 0, "protocol": "strict", "tap": tap, "depth": 0, "kind": "detection", "dataset": dataset}
    return make_row(row | {"group": "far", "method": "energy", "metric": "fpr95_id_positive", "value": value} | more)


def transfer_row(tap: str, dataset: str, value: float | None, *, run: str = "a", **more: Any) -> dict[str, Any]:
    row = {"run": run, "seed": 0, "protocol": "strict", "tap": tap, "depth": 0, "kind": "transfer", "dataset": dataset}
    return make_row(row | {"group": "transfer", "method": "linear", "metric": "accuracy", "value": value} | more)


def accuracy_row(tap: str, value: float, *, method: str = "linear", run: str = "a", **more: Any) -> dict[str, Any]:
    row = {
        "run": run,
        "seed": 0,
        "protocol": "strict",
        "tap": tap,
        "depth": 0,
        "kind": "accuracy",
        "dataset": "id_test",
    }
    return make_row(row | {"group": "id", "method": method, "metric": "accuracy", "value": value} | more)
