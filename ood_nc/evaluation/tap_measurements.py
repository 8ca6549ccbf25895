"""Every tap measured: its collapse, detection, transfer and ID accuracy."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ood_nc.data import transfer_keys
from ood_nc.evaluation.calibration import calibration_rows
from ood_nc.evaluation.collapse import collapse_rows, held_out_collapse
from ood_nc.evaluation.detection import SMALL, Measured, measure_detectors
from ood_nc.evaluation.ensembles import measure_ensemble
from ood_nc.evaluation.findings import Found
from ood_nc.evaluation.maps import feature_maps
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.scores_table import correct_column
from ood_nc.evaluation.taps import open_tap
from ood_nc.evaluation.transfer import Probed, id_accuracy, measure_probes, tunnel_rows
from ood_nc.progress import progress
from ood_nc.threads import beside_each_other


def measure_taps(plan: Plan, found: Found, clock: dict[str, float]) -> None:
    """Measure every tap of the plan, small ones beside each other; what is found comes in the order of the taps.

    Args:
        plan: what is measured.
        found: takes in what the taps give.
        clock: takes in the seconds by part of the measurement; of taps beside each other, their share of those that
            passed.
    """
    start, spent = time.perf_counter(), dict[str, float]()
    measure = functools.partial(_measure_tap, plan)
    with (
        progress("measuring taps", total=len(plan.taps), unit="taps") as advance,
        beside_each_other(_at_once(plan)) as begin,
    ):
        begun = {name: begin(measure, name) for name in sorted(plan.taps, key=plan.size_of, reverse=True)}
        for name in plan.taps:
            one, seconds = begun[name]()
            found.take_in(one)
            for part in seconds:
                spent[part] = spent.get(part, 0.0) + seconds[part]
            advance(1, note=name)
    share = min(1.0, (time.perf_counter() - start) / sum(spent.values())) if spent else 1.0
    for part in spent:
        clock[part] = clock.get(part, 0.0) + share * spent[part]
    found.rows += tunnel_rows(found.rows, plan)


def add_detectors(plan: Plan, found: Found, tap: str, measured: dict[str, Measured]) -> None:
    """Take in what the detectors gave at a tap, and their ensembles."""
    found.scores[tap] = {name: one.scores for name, one in measured.items() if one.scores}
    for combine in plan.ensembles:
        members = list(found.scores[tap].values())
        method = f"{combine}(detectors)"
        measured[method] = measure_ensemble(plan, members, combine, tap, method)
    for name, one in measured.items():
        found.add(tap, name, one)
        if tap in (plan.model.head_tap, "encoder"):
            found.draw(tap, name, one)


def add_probe(found: Found, tap: str, probed: Probed) -> None:
    """Take in what a probe gave at a tap."""
    found.rows += probed.rows
    found.by_class += probed.by_class
    for (name, method), right in probed.correct.items():
        found.columns[transfer_keys(name)[1]][correct_column(tap, method)] = right


@contextmanager
def timed(clock: dict[str, float], part: str) -> Iterator[None]:
    """Add the seconds of the block to a part of the measurement."""
    start = time.perf_counter()
    yield
    clock[part] = clock.get(part, 0.0) + time.perf_counter() - start


def _at_once(plan: Plan) -> int:
    """Taps that are measured beside each other: where one leaves cores idle."""
    small = plan.device.type == "cpu" and max(map(plan.size_of, plan.taps), default=0) <= SMALL
    return min(torch.get_num_threads(), len(plan.taps)) if small else 1


def _measure_tap(plan: Plan, name: str) -> tuple[Found, dict[str, float]]:
    found, clock = Found(), dict[str, float]()
    with timed(clock, "id_probes"):
        tap = open_tap(
            plan.model, name, plan.banks, head_fits=plan.inputs.head_fits, device=plan.device, seed=plan.seed
        )
    if (note := plan.banks["id_train"].copies_note(name)) is not None:
        found.notes.append(f"{name}: of the ID train features, {note}")
    with timed(clock, "collapse"):
        found.rows += collapse_rows(tap, plan)
        found.held_out[name] = held_out_collapse(tap, plan.inputs)
    with timed(clock, "detection"):
        add_detectors(plan, found, name, measure_detectors(tap, plan))
    with timed(clock, "transfer"):
        for probed in measure_probes(tap, plan):
            add_probe(found, name, probed)
    if name in (plan.model.head_tap, "encoder"):
        found.maps += feature_maps(name, plan.banks, plan.feature_map, plan.seed)
    rows, by_method = id_accuracy(tap, plan)
    found.rows += rows
    if name == plan.model.head_tap:
        found.rows += calibration_rows(tap, plan.of("accuracy", name))
    for method, right in by_method.items():
        found.columns["id_test"][correct_column(name, method)] = right
    return found, clock
