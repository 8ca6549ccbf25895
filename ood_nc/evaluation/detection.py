"""Detection at one tap: every detector fitted on ID train, scored on held-out ID and on each OOD set."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ood_nc.data import ood_key
from ood_nc.detection import FeatureDetector, TapQueries, TapStatistics, create_feature_detector
from ood_nc.documents import DISJOINT, MEAN, OOD_GROUPS
from ood_nc.errors import UserError
from ood_nc.evaluation.fitting import Tuning, outliers_of, queries_of, statistics_of
from ood_nc.evaluation.measurement_plan import Plan, Resamples
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.rules import MADE_FEATURES, MADE_IMAGES
from ood_nc.evaluation.taps import TapData
from ood_nc.scores import METRICS, percentile_intervals, resampled_metrics

Scores = NDArray[np.float64]
Metrics = dict[str, Scores | str]
"""By metric the value, then those of the resamples; or why it has none."""

_UNREAD = "the set holds no readable image"

SMALL = 1 << 25
"""Values of features up to which the overhead of a call counts: 65,536 rows of 512."""


@dataclass
class Measured:
    """What one detector gave at one tap: rows, and its scores by set key."""

    rows: list[Row]
    scores: dict[str, Scores]

    @property
    def tested(self) -> dict[str, Scores]:
        """The scores of the sets that are tested, without those for what is settled before the test."""
        return {key: scores for key, scores in self.scores.items() if key not in ("id_val", MADE_FEATURES, MADE_IMAGES)}


class Scored(NamedTuple):
    """What a detector gave: scores by set key, why sets have none, what it was chosen on, the bytes that it keeps."""

    scores: dict[str, Scores]
    failures: Mapping[str, str] = MappingProxyType({})
    selected_on: str | None = None
    memory: int | None = None


class TapSets:
    """The sets that detectors score at a tap, small ones as one: a call costs what some hundred images do.

    Args:
        queries: by set key; ``id_test`` is among them.
        tap: the tap.
    """

    def __init__(self, queries: Mapping[str, TapQueries], tap: TapData) -> None:
        self._queries, self._together = queries, None
        if sum(len(one) for one in queries.values()) * tap.features["id_test"].shape[1] <= SMALL:
            features = torch.cat([one.features for one in queries.values()])
            with suppress(UserError):  # outliers made of features have no logits where there is no head
                logits = torch.cat([one.logits for one in queries.values()]) if tap.own_logits else None
                self._together = TapQueries(features, logits=logits, head=tap.head)

    def scores(self, detector: FeatureDetector) -> tuple[dict[str, Scores], dict[str, str]]:
        """By set key the scores, and why others have none; where ``id_test`` has none, that is raised."""
        if self._together is not None:
            with suppress(Exception):  # which set it was is found one by one
                ends = np.cumsum([len(one) for one in self._queries.values()])[:-1]
                return dict(zip(self._queries, np.split(_score(detector, self._together), ends), strict=True)), {}
        scores, failures = {"id_test": _score(detector, self._queries["id_test"])}, {}
        for key in [key for key in self._queries if key != "id_test"]:
            try:
                scores[key] = _score(detector, self._queries[key])
            except Exception as error:
                # One set must not cost the others.
                failures[key] = reason_of(error)
        return scores, failures


def measure_detectors(tap: TapData, plan: Plan) -> dict[str, Measured]:
    """Fit and score every detector; one that cannot run here, or fails, is a null row with the reason.

    What several detectors compute alike is shared; its time counts for the first that asks. Where ID images are held
    out (``id_val``) they and outliers made of them (`ood_nc.evaluation.rules`) are scored too, without rows.
    """
    train, make = statistics_of(tap), plan.of("detection", tap.name)
    keys = [key for key in ("id_test", "id_val", MADE_IMAGES, *map(ood_key, plan.inputs.ood)) if key in tap.features]
    queries = {key: queries_of(tap, key) for key in keys}
    if "id_val" in tap.features:
        with suppress(UserError):
            queries[MADE_FEATURES] = outliers_of(tap, plan.seed)
    sets = TapSets(queries, tap)
    runs = {name: functools.partial(_at_tap, name, tap, train, sets, plan.tuning) for name in plan.detectors}
    return {name: measure_one(name, run, plan, make) for name, run in runs.items()}


def _at_tap(name: str, tap: TapData, train: TapStatistics, sets: TapSets, tuning: Tuning | None) -> Scored:
    detector = create_feature_detector(name)
    chosen = None if tuning is None else tuning.choose(detector, tap, train)
    detector.fit(train)
    scores, failures = sets.scores(detector)
    selected_on = [] if chosen is None else [f"{chosen.selected_on} ({_listed(chosen.parameters)})"]
    if tap.selected_on and detector.requires & {"logits", "head"}:
        selected_on.append(tap.selected_on)
    return Scored(scores, failures, "; ".join(selected_on) or None, state_bytes(detector.state_dict()))


def _score(detector: FeatureDetector, queries: TapQueries) -> Scores:
    scores: Scores = detector.score(queries).cpu().numpy()
    return scores


def state_bytes(state: Any) -> int:
    """The bytes of all tensors and arrays in a detector's state."""
    if isinstance(state, Mapping):
        state = state.values()
    if isinstance(state, (torch.Tensor, np.ndarray)):
        return state.nbytes
    return 0 if isinstance(state, str) or not isinstance(state, Iterable) else sum(map(state_bytes, state))


def _listed(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def measure_one(name: str, run: Callable[[], Scored], plan: Plan, make: MakeRow) -> Measured:
    """The rows and scores of one detector; where it fails, null rows with the reason: it must not cost the others.

    Args:
        name: of the detector.
        run: fits it and scores every set.
        plan: what is measured with.
        make: makes a row of the tap.
    """
    return _told(name, *_tried(run), plan, make)


def _tried(run: Callable[[], Scored]) -> tuple[Scored | str, float]:
    """What it gave, or why it failed, and the seconds it took."""
    start = time.perf_counter()
    try:
        found: Scored | str = run()
    except Exception as error:
        found = reason_of(error)
    return found, time.perf_counter() - start


def _told(name: str, found: Scored | str, seconds: float, plan: Plan, make: MakeRow) -> Measured:
    make = functools.partial(make, method=name)
    if isinstance(found, str):
        return Measured(null_rows(plan.inputs.groups, found, make), {})
    n = sum(map(len, found.scores.values()))
    rows = [make(dataset="id_test", group="id", metric="seconds", value=seconds, n=n)]
    if found.memory is not None:
        rows.append(make(dataset="id_test", group="id", metric="memory", value=found.memory / 1e6, n=n))
    make = functools.partial(make, selected_on=found.selected_on)
    rows += detection_rows(found.scores, found.failures, plan, make)
    return Measured(rows, found.scores)


def null_rows(groups: Mapping[str, str], reason: str, make: MakeRow) -> list[Row]:
    """The rows of a detector that gave no score, with the reason."""
    return [
        make(dataset=ood, group=group, metric=metric, value=None, reason=reason)
        for ood, group in groups.items()
        for metric in METRICS
    ]


def detection_rows(scores: Mapping[str, Scores], failures: Mapping[str, str], plan: Plan, make: MakeRow) -> list[Row]:
    """The rows of one detector: each OOD set, those with overlap once more without it, and the mean of each group."""
    rows: list[Row] = []
    by_group: dict[str, list[Metrics]] = {}
    for ood, group in plan.inputs.groups.items():
        where = {"dataset": ood, "group": group}
        values = scores.get(ood_key(ood))
        try:
            if values is None:
                raise UserError(failures.get(ood_key(ood), _UNREAD))
            found = _metrics(scores["id_test"], ood_key(ood), values, plan.resamples)
        except UserError as error:
            rows += null_rows({ood: group}, reason_of(error), make)
            continue
        by_group.setdefault(group, []).append(found)
        rows += _metric_rows(found, make, n=len(values), **where)
        kept = _without_overlap(plan.ids[ood_key(ood)], plan.inputs.overlap.get(ood, set()))
        if kept is not None and kept.any():
            where["dataset"] = ood + DISJOINT
            found = _metrics(scores["id_test"], ood_key(where["dataset"]), values[kept], plan.resamples)
            rows += _metric_rows(found, make, n=int(kept.sum()), **where)
    return rows + _mean_rows(by_group, make)


def rows_of_sets(
    scores: Mapping[str, Scores], groups: Mapping[str, str], resamples: Resamples, make: MakeRow
) -> list[Row]:
    """The rows of one detector where no OOD set overlaps: each set, and the mean of each group.

    Args:
        scores: by set, ``id_test`` and the OOD sets that hold images.
        groups: of the OOD sets.
        resamples: for the intervals.
        make: makes a row of the detector.
    """
    rows: list[Row] = []
    by_group: dict[str, list[Metrics]] = {}
    for name, group in groups.items():
        try:
            if name not in scores:
                raise UserError(_UNREAD)
            found = _metrics(scores["id_test"], name, scores[name], resamples)
        except UserError as error:
            rows += null_rows({name: group}, reason_of(error), make)
            continue
        by_group.setdefault(group, []).append(found)
        rows += _metric_rows(found, make, n=len(scores[name]), dataset=name, group=group)
    return rows + _mean_rows(by_group, make)


def _mean_rows(by_group: dict[str, list[Metrics]], make: MakeRow) -> list[Row]:
    by_group["ood"] = [found for group in OOD_GROUPS for found in by_group.get(group, [])]
    rows = []
    for group, parts in by_group.items():
        if parts:
            mean: Metrics = {}
            for metric in parts[0]:
                failed = [one for found in parts if isinstance(one := found[metric], str)]
                mean[metric] = failed[0] if failed else np.mean([found[metric] for found in parts], axis=0)  # type: ignore[arg-type]
            rows += _metric_rows(mean, make, n=len(parts), dataset=MEAN, group=group)
    return rows


def _metrics(id_scores: Scores, key: str, ood_scores: Scores, resamples: Resamples) -> Metrics:
    """By metric the value, then those of the resamples; of one that fails alone (another package's), why it does."""
    sides = id_scores, ood_scores, resamples.of("id_test", len(id_scores)), resamples.of(key, len(ood_scores))
    found: Metrics = {}
    try:
        found.update(resampled_metrics(*sides))
    except Exception:
        for name in METRICS:
            try:
                found.update(resampled_metrics(*sides, [name]))
            except Exception as error:
                found[name] = reason_of(error)
        if all(isinstance(one, str) for one in found.values()):  # of the scores, not of a metric
            raise
    return found


def _metric_rows(found: Metrics, make: MakeRow, **where: Any) -> list[Row]:
    values = {metric: one for metric, one in found.items() if not isinstance(one, str)}
    ends = percentile_intervals(values)
    return [
        make(**where, metric=metric, value=float(values[metric][0]), low=ends[metric][0], high=ends[metric][1])
        if metric in values
        else make(**where, metric=metric, value=None, reason=one)
        for metric, one in found.items()
    ]


def _without_overlap(ids: Sequence[str], overlap: set[str]) -> NDArray[np.bool_] | None:
    return np.array([name not in overlap for name in ids], dtype=bool) if overlap else None
