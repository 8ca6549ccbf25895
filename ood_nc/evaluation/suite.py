"""The evaluation: one forward pass an image, then collapse, detection, transfer of every tap, and their relation."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ood_nc.config import EvaluationConfig
from ood_nc.detection import list_detectors
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.banks import Extractor, extract_banks
from ood_nc.evaluation.choices import choose_taps
from ood_nc.evaluation.collapse import measure_collapse
from ood_nc.evaluation.detection import Resamples, measure_detectors
from ood_nc.evaluation.histograms import histograms
from ood_nc.evaluation.identity import describe
from ood_nc.evaluation.inputs import Inputs, Source, TransferSource, ood_key, prepare, transfer_keys
from ood_nc.evaluation.relations import relate
from ood_nc.evaluation.results import MakeRow, Results, Row, make_row
from ood_nc.evaluation.samples import Columns, correct_column, score_column, scores_table
from ood_nc.evaluation.taps import TapData, open_tap
from ood_nc.evaluation.transfer import check_probes, id_accuracy, measure_probes, tunnel_rows
from ood_nc.features import BankStore, FeatureBank, extract
from ood_nc.models import weights_hash
from ood_nc.progress import progress

PROTOCOLS = ("strict",)


def evaluate(
    model: Any,
    *,
    id: Source,
    id_train: Source | None = None,
    ood: Mapping[str, Source] | None = None,
    transfer: Mapping[str, TransferSource] | None = None,
    groups: Mapping[str, str] | None = None,
    detectors: Sequence[str] | None = None,
    probes: Sequence[str] | None = None,
    bootstrap: int = 500,
    seed: int = 0,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "auto",
    amp: bool = False,
    cache: str | Path | None = None,
    run: str = "run",
    protocol: str = "strict",
) -> Results:
    """Measure every tap of a model: collapse, OOD detection, transfer, ID accuracy, and their relation.

    Protocol ``strict``: detectors and probes are fitted on ID (or transfer) train features alone, what they choose is
    chosen on a split held out of those, and every test split is read once. The linear classifier of a tap is the
    model's head where the head reads that tap, else a fresh linear probe of the ID train features. Every set passes
    through the model's own preprocessing. What cannot be measured is a null row with the reason; the rest goes on.

    Rows: ``collapse`` on ``id_train`` and ``id_test``; ``detection`` by OOD set (its n counts OOD images; n of ID and
    the base rate stand in the identity), once more as ``NAME (disjoint)`` where the set shares images or classes with
    ID, and as dataset ``mean`` by group (its n counts sets); ``transfer`` likewise; ``accuracy`` on ID.

    Args:
        model: a `ControlledModel`.
        id: held-out ID images, a data set or a source (`ood_nc.data.open_dataset`).
        id_train: ID training images; without them half of ``id`` is fitted on.
        ood: OOD sets by name.
        transfer: transfer tasks by name: (train, test), or one set, of which a fifth is the test part.
        groups: near, far (when not given) or covariate of each OOD set.
        detectors: names and globs; the configuration's default when not given.
        probes: of linear, knn, nearest_mean; all when not given.
        bootstrap: replicates of each interval, 0 for none.
        seed: of probes and intervals.
        batch_size: images a forward pass.
        workers: processes that load images.
        device: where the model and the measurements run; ``auto`` takes a GPU where there is one.
        amp: extract under autocast.
        cache: folder of feature banks; nothing is kept when not given.
        run: name of the run in the results.
        protocol: ``strict``.

    Raises:
        UserError: a source cannot be opened, or a detector, probe, group or protocol is unknown.
    """
    start = time.perf_counter()
    device = _device(device)
    if protocol not in PROTOCOLS:
        raise UserError(f"Unknown protocol {protocol!r}: use {', '.join(PROTOCOLS)}.")
    defaults = EvaluationConfig()
    names = _detectors(defaults.detectors if detectors is None else detectors)
    probes = list(defaults.probes if probes is None else probes)
    check_probes(probes)
    inputs = prepare(model, id=id, id_train=id_train, ood=ood or {}, transfer=transfer or {}, groups=groups or {})
    clock = {"preparation": time.perf_counter() - start}
    weights = weights_hash(model)
    options = {"batch_size": batch_size, "workers": workers, "device": device, "amp": amp}
    with _timed(clock, "features"):
        banks = extract_banks(inputs, _extractor(model, cache, weights, options))
    plan = _Plan(
        model=model,
        inputs=inputs,
        banks=banks,
        detectors=names,
        probes=probes,
        resamples=Resamples(bootstrap, seed),
        seed=seed,
        device=device,
        base={"run": run, "seed": seed, "protocol": protocol},
    )
    found = _measure_taps(plan, clock)
    with _timed(clock, "relations"):
        relations, choices = relate(found.rows, replicates=bootstrap, seed=seed), choose_taps(found.rows)
    identity = describe(
        model, inputs, weights_hash=weights, **plan.base, detectors=names, probes=probes, bootstrap=bootstrap
    )
    identity["seconds"] = {**clock, "total": time.perf_counter() - start}
    return Results(
        rows=found.rows,
        identity=identity,
        relations=relations,
        choices=choices,
        series={"histograms": found.histograms},
        scores=scores_table(_sets(plan, found)),
    )


@dataclass(frozen=True)
class _Plan:
    """What every tap is measured with."""

    model: Any
    inputs: Inputs
    banks: dict[str, FeatureBank]
    detectors: list[str]
    probes: list[str]
    resamples: Resamples
    seed: int
    device: torch.device
    base: dict[str, Any]


@dataclass
class _Found:
    """What the taps gave so far: rows, histograms, and by set key the columns of scores and of right answers."""

    rows: list[Row] = field(default_factory=list)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Columns] = field(default_factory=lambda: defaultdict(dict))


def _device(name: str | torch.device) -> torch.device:
    if str(name) != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _detectors(patterns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for pattern in patterns:
        matching = list_detectors(pattern)
        if not matching:
            raise UserError(
                f"No detector matches {pattern!r}.{nearest(pattern, list_detectors())} See `ood-nc list detectors`."
            )
        names += [name for name in matching if name not in names]
    return names


def _extractor(model: Any, cache: str | Path | None, weights: str, options: Mapping[str, Any]) -> Extractor:
    if cache is None:
        return lambda dataset: extract(model, dataset, **options)
    store = BankStore(cache)
    return lambda dataset: store.get(model, dataset, weights=weights, **options)


def _measure_taps(plan: _Plan, clock: dict[str, float]) -> _Found:
    found = _Found()
    taps = [(name, plan.model.tap_info[name].depth) for name in plan.model.tap_names]
    shown = {plan.model.head_tap, "encoder"}
    with progress("measuring taps", total=len(taps), unit="taps") as advance:
        for name, _ in taps:
            with _timed(clock, "id_probes"):
                tap = open_tap(
                    plan.model, name, plan.banks, head_fits=plan.inputs.head_fits, device=plan.device, seed=plan.seed
                )
            _measure_tap(plan, tap, found, clock, with_histograms=name in shown)
            advance(1, note=name)
    found.rows += tunnel_rows(found.rows, plan.inputs, taps, functools.partial(make_row, plan.base, kind="transfer"))
    return found


def _measure_tap(plan: _Plan, tap: TapData, found: _Found, clock: dict[str, float], *, with_histograms: bool) -> None:
    def of(kind: str) -> MakeRow:
        return functools.partial(make_row, {**plan.base, "tap": tap.name, "depth": tap.depth, "kind": kind})

    with _timed(clock, "collapse"):
        found.rows += measure_collapse(tap, plan.inputs, seed=plan.seed, make=of("collapse"))
    with _timed(clock, "detection"):
        ids = {key: bank.ids for key, bank in plan.banks.items()}
        measured = measure_detectors(tap, plan.inputs, ids, plan.detectors, plan.resamples, of("detection"))
    for name, one in measured.items():
        found.rows += one.rows
        for key, scores in one.scores.items():
            found.columns[key][score_column(tap.name, name)] = scores
        if with_histograms:
            found.histograms += histograms(tap.name, name, one.scores)
    with _timed(clock, "transfer"):
        rows, correct = measure_probes(
            tap, plan.inputs, plan.probes, replicates=plan.resamples.replicates, seed=plan.seed, make=of("transfer")
        )
    found.rows += rows
    for (name, probe), right in correct.items():
        found.columns[transfer_keys(name)[1]][correct_column(tap.name, probe)] = right
    rows, by_method = id_accuracy(tap, of("accuracy"), is_head_tap=tap.name == plan.model.head_tap)
    found.rows += rows
    for method, right in by_method.items():
        found.columns["id_test"][correct_column(tap.name, method)] = right


def _sets(plan: _Plan, found: _Found) -> list[tuple[str, str, tuple[str, ...], Columns]]:
    """Group, name, ids and columns of every set that is tested."""
    inputs, banks = plan.inputs, plan.banks
    sets = [("id", "id_test", "id_test")]
    sets += [(group, name, ood_key(name)) for name, group in inputs.groups.items()]
    sets += [("transfer", name, transfer_keys(name)[1]) for name in inputs.transfer]
    return [(group, name, banks[key].ids, found.columns[key]) for group, name, key in sets if key in banks]


@contextmanager
def _timed(clock: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[part] = clock.get(part, 0.0) + time.perf_counter() - start
