"""Transfer at one tap: probes on every transfer set, and the tunnel-effect summaries over taps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ood_nc.data import transfer_keys
from ood_nc.documents import MEAN, is_one_set
from ood_nc.errors import UserError
from ood_nc.evaluation.fitting import order_note
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.taps import TapData, labelled
from ood_nc.scores import percentile_interval
from ood_nc.transfer import PROBES, ProbeResult, id_ood_alignment, layer_correlation, retained_accuracy, wilson_interval

Correct = NDArray[Any]
"""Whether each test image was right (bool); of few-shot probes the share of draws in which it was (float64)."""


class Probed(NamedTuple):
    """What a probe gave at a tap: rows; by (transfer set, probe) which test images were right; the accuracy on each
    class."""

    rows: list[Row]
    correct: dict[tuple[str, str], Correct]
    by_class: list[dict[str, Any]]


def measure_probes(tap: TapData, plan: Plan) -> list[Probed]:
    """Fit every probe on every transfer set's train part and read its test part once."""
    return [
        measure_probe(probe, functools.partial(_run, probe, tap, plan.seed), tap.name, plan) for probe in plan.probes
    ]


def measure_probe(method: str, run: Callable[[str], ProbeResult], tap: str, plan: Plan) -> Probed:
    """The rows of a probe: ``run`` gives its result on a transfer set, or raises."""
    make = functools.partial(plan.of("transfer", tap), group="transfer", method=method)
    found = Probed([], {}, [])
    results = []
    for name in plan.inputs.transfer:
        try:
            result = run(name)
            rows = accuracy_rows(result, make, dataset=name)
            of_class = {str(number): round(share, 6) for number, share in result.per_class.items()}
            right = result.correct if result.correct.ndim == 1 else result.correct.double().mean(dim=0)
            found.correct[name, method] = right.cpu().numpy()
        except Exception as error:
            # One set must not cost the others, nor what another package returns; the reason stands in its row.
            found.rows.append(make(dataset=name, metric="accuracy", value=None, reason=reason_of(error)))
            continue
        results.append(result)
        found.rows.extend(rows)
        found.by_class.append({"tap": tap, "dataset": name, "method": method, "accuracy": of_class})
    if results:
        found.rows.append(mean_row(results, plan, make))
    return found


def accuracy_rows(result: ProbeResult, make: MakeRow, **where: Any) -> list[Row]:
    """A probe's accuracy with its interval, its balanced error, and its run time."""
    value = {"value": result.accuracy, "low": result.low, "high": result.high, "selected_on": result.selected_on}
    return [
        make(**where, metric="accuracy", n=result.n, **value),
        make(
            **where,
            metric="balanced_error",
            n=result.n,
            value=result.balanced_error,
            reason="the probe gives no accuracy by class",
            selected_on=result.selected_on,
        ),
        make(**where, metric="seconds", n=result.n, value=result.seconds),
    ]


def id_accuracy(tap: TapData, plan: Plan) -> tuple[list[Row], dict[str, Correct]]:
    """Top-1 accuracy on held-out ID of the tap's ID probe and, on the tap it reads, of the head.

    Returns:
        The rows, and by method which ID test images were right.
    """
    make = functools.partial(plan.of("accuracy", tap.name), dataset="id_test", group="id")
    rows: list[Row] = []
    correct: dict[str, Correct] = {}
    if tap.probe is None:
        why = "the ID sets have no labels, one class, or features that are not finite"
        rows.append(make(method="linear", metric="accuracy", value=None, reason=why))
    else:
        rows += accuracy_rows(tap.probe, make, method="linear")
        correct["linear"] = tap.probe.correct.cpu().numpy()
    if tap.name != plan.model.head_tap:
        return rows, correct
    labels = tap.labels["id_test"]
    if tap.own_logits and labelled(labels):
        right = tap.own_logits["id_test"].argmax(dim=1) == labels
        n, total = len(right), int(right.sum())
        low, high = wilson_interval(total, n)
        rows.append(make(method="head", metric="accuracy", value=total / n, low=low, high=high, n=n))
        correct["head"] = right.cpu().numpy()
    else:
        why = "the head was made for other classes" if labelled(labels) else "the ID test set has no labels"
        rows.append(make(method="head", metric="accuracy", value=None, reason=why))
    return rows, correct


def order_notes(rows: Iterable[Row], num_classes: int) -> list[str]:
    """What to say where the head is right less often than by chance, as it is where classes are in another order."""
    accuracies = [row for row in rows if (row["method"], row["metric"]) == ("head", "accuracy") and row["high"]]
    # Without labels of ID train there are logits of classes that nobody counted.
    told = (order_note(row["value"], row["high"], num_classes, "ID test") for row in accuracies if num_classes)
    return [note for note in told if note]


def tunnel_rows(rows: Iterable[Row], plan: Plan) -> list[Row]:
    """The tunnel effect of each transfer set by the linear probe, over taps in depth order.

    ``retained`` (per cent of the best tap's accuracy that the last keeps) and ``id_correlation`` (over taps, with the
    ID probe's accuracy) stand at the last tap, ``id_alignment`` at every tap.

    Args:
        rows: those of all taps.
        plan: what was measured with.
    """
    curves: dict[str, dict[str, float]] = {}
    for row in rows:
        wanted = row["method"] == "linear" and row["metric"] == "accuracy" and row["kind"] in ("accuracy", "transfer")
        if wanted and row["value"] is not None and is_one_set(row):
            curves.setdefault("id" if row["kind"] == "accuracy" else row["dataset"], {})[row["tap"]] = row["value"]
    on_id = curves.pop("id", {})
    found: list[Row] = []
    for name, curve in curves.items():
        pair = plan.inputs.transfer.get(name)
        if pair is None or not all(tap in curve and tap in on_id for tap in plan.taps):
            continue
        ids, transferred = ([values[tap] for tap in plan.taps] for values in (on_id, curve))
        where = {"dataset": name, "group": "transfer", "method": "linear"}
        last = functools.partial(plan.of("transfer", plan.taps[-1]), **where, n=len(ids))
        retained, correlation = retained_accuracy(transferred), layer_correlation(ids, transferred)
        found.append(last(metric="retained", value=retained, reason="no tap is ever right"))
        found.append(last(metric="id_correlation", value=correlation, reason="one tap, or a constant accuracy"))
        classes = {"id_classes": plan.inputs.id_train.num_classes, "ood_classes": pair[0].num_classes}
        for tap, a, b in zip(plan.taps, ids, transferred, strict=True):
            value = id_ood_alignment(a, b, **classes)
            found.append(plan.of("transfer", tap)(**where, metric="id_alignment", value=value))
    return found


def mean_row(results: Sequence[ProbeResult], plan: Plan, make: MakeRow) -> Row:
    """The mean accuracy over sets; resampled: a binomial number of right answers, or the draws of few-shot probes."""
    generator = np.random.default_rng(plan.seed)
    resampled = [_resampled(result, plan.resamples.replicates, generator) for result in results]
    low, high = percentile_interval(np.mean(resampled, axis=0))
    chosen = {result.selected_on for result in results}
    return make(
        dataset=MEAN,
        metric="accuracy",
        value=float(np.mean([result.accuracy for result in results])),
        low=low,
        high=high,
        n=len(results),
        selected_on=chosen.pop() if len(chosen) == 1 else None,
    )


def _resampled(result: ProbeResult, replicates: int, generator: np.random.Generator) -> NDArray[np.float64]:
    if result.correct.ndim == 1:
        return generator.binomial(result.n, result.accuracy, replicates) / result.n
    draws = result.correct.double().mean(dim=1).cpu().numpy()
    means: NDArray[np.float64] = generator.choice(draws, (replicates, len(draws))).mean(axis=1)
    return means


def _run(probe: str, tap: TapData, seed: int, name: str) -> ProbeResult:
    arguments: list[torch.Tensor] = []
    for key in transfer_keys(name):
        if key not in tap.features:
            raise UserError("the set holds no readable image")
        if not labelled(tap.labels[key]):
            raise UserError("the set has images without labels")
        arguments += [tap.features[key], tap.labels[key]]
    return PROBES[probe](*arguments, seed=seed)
