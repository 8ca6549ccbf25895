"""An evaluation that keeps no features: one pass over each set, and of each tap what can be known from that.

ID train leaves class statistics, on which collapse is measured and those detectors are fitted that ask for no more.
Then every other set is scored batch by batch. What needs the samples again (neighbours, probes, percentiles) is a null
row with the reason.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ood_nc.collapse import ClassStatistics
from ood_nc.data import ImageDataset, Inputs, ood_key
from ood_nc.detection import FeatureDetector, TapMoments, TapQueries, create_feature_detector
from ood_nc.errors import UserError
from ood_nc.evaluation.collapse import rows_of_statistics
from ood_nc.evaluation.detection import Measured, Scored, Scores, measure_one
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import Row, reason_of
from ood_nc.evaluation.taps import HEAD, ID_PROBE, TapData, head_of
from ood_nc.evaluation.transfer import id_accuracy
from ood_nc.features import FeatureBank, UnreadableError, forwarded
from ood_nc.features.extraction import described

Place = tuple[str, str]
"""A tap and a detector."""


@dataclass
class _Pass:
    """What a pass over a set leaves: its bank without features, and by tap the statistics or the mean of these."""

    bank: FeatureBank
    statistics: dict[str, ClassStatistics]
    means: dict[str, torch.Tensor]
    lowest: dict[str, float]


@dataclass
class Streamed:
    """What the passes over all sets left.

    Attributes:
        banks: by set key, ids, labels and logits; no features.
        passes: by set key.
        scores: by tap and detector, the scores by set key.
        failures: by tap and detector, why a set has none; under the empty key, why none has.
    """

    banks: dict[str, FeatureBank] = field(default_factory=dict)
    passes: dict[str, _Pass] = field(default_factory=dict)
    scores: dict[Place, dict[str, Scores]] = field(default_factory=lambda: defaultdict(dict))
    failures: dict[Place, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


def stream(model: Any, inputs: Inputs, detectors: Sequence[str], **options: Any) -> Streamed:
    """Pass over ID train, fit, then pass over every other ID and OOD set and score it.

    Args:
        model: as for `ood_nc.features.forwarded`.
        inputs: the sets; what cannot be read is noted in them.
        detectors: names of feature detectors.
        **options: passed on to `ood_nc.features.forwarded`.

    Raises:
        UserError: ID train has images without labels.
        UnreadableError: none of the images of an ID set can be read.
    """
    if (np.asarray(inputs.id_train.targets) < 0).any():
        raise UserError("Without a bank detectors are fitted on class statistics: label id_train, or keep a bank.")
    found, fitted = Streamed(), dict[Place, FeatureDetector]()
    sets = {key: one for key, one in inputs.all().items() if key.startswith(("id_", "ood/"))}
    for key in sorted(sets, key=lambda key: key != "id_train"):
        try:
            found.passes[key] = _pass_over(model, sets[key], key, inputs, fitted, found, options)
        except UnreadableError as error:
            if not key.startswith("ood/"):
                raise
            inputs.notes.append(f"{error} It is undefined and in no mean.")
            continue
        found.banks[key] = found.passes[key].bank
        inputs.note_broken(key, found.banks[key].broken)
        if key == "id_train":
            fitted = _fit(model, inputs, found, detectors)
    return found


def measure_streamed(plan: Plan, streamed: Streamed) -> Iterator[tuple[str, list[Row], dict[str, Measured]]]:
    """By tap the rows of collapse and accuracy, and what each detector gave."""
    labels = {key: bank.labels for key, bank in streamed.banks.items()}
    for name in plan.taps:
        own = plan.inputs.head_fits and name == plan.model.head_tap
        logits = {key: bank.logits for key, bank in streamed.banks.items()} if own else {}
        head = head_of(plan.model) if own else None
        depth = plan.model.tap_info[name].depth
        tap = TapData(name, depth, {}, labels, head, HEAD if own else ID_PROBE, logits, None, None)
        ood = {ood_set: ood_key(ood_set) for ood_set in plan.inputs.groups if ood_key(ood_set) in streamed.passes}
        means = {one: (streamed.passes[key].means[name], len(streamed.banks[key])) for one, key in ood.items()}
        of = functools.partial(_statistics, streamed, name)
        rows = rows_of_statistics(tap, of, means, plan)
        accuracy, _ = id_accuracy(tap, plan)
        rows += [row for row in accuracy if row["method"] == HEAD]
        runs = {one: functools.partial(_scored, streamed, (name, one)) for one in plan.detectors}
        make = plan.of("detection", name)
        yield name, rows, {one: measure_one(one, run, plan, make) for one, run in runs.items()}


def skipped(streamed: Streamed, probes: Sequence[str]) -> str:
    """What to say beside the results."""
    names = sorted({detector for (_, detector), why in streamed.failures.items() if "" in why})
    left = f"detectors {', '.join(names)}, " if names else ""
    probed = f"probes ({', '.join(probes)}), " if probes else ""
    return f"no bank was kept: {left}{probed}and collapse metrics of the samples are left out where they have no value"


def _pass_over(
    model: Any,
    dataset: ImageDataset,
    key: str,
    inputs: Inputs,
    fitted: Mapping[Place, FeatureDetector],
    found: Streamed,
    options: Mapping[str, Any],
) -> _Pass:
    labels = torch.as_tensor(dataset.targets, dtype=torch.long)
    classes = max(inputs.id_train.num_classes, model.num_classes if inputs.head_fits else 0)
    # Without classes the one mean is what is wanted.
    labels, classes = (labels, classes) if key.startswith("id_") and bool((labels >= 0).all()) else (labels * 0, 1)
    statistics = {name: ClassStatistics(classes, info.dim) for name, info in model.tap_info.items()}
    lowest = dict.fromkeys(statistics, float("inf"))
    logits, broken = [torch.empty(0, model.num_classes)], list[tuple[int, str]]()
    parts: dict[Place, list[Scores]] = {place: [] for place in fitted}
    with closing(forwarded(model, dataset, **options)) as batches:
        for batch in batches:
            broken += batch.unread
            if not len(batch.rows):
                continue
            logits.append(batch.logits)
            for name, features in batch.taps.items():
                statistics[name].update(features, labels[batch.rows])
                lowest[name] = min(lowest[name], float(features.min()))
                own = inputs.head_fits and name == model.head_tap
                queries = TapQueries(features, logits=batch.logits if own else None)
                for place in [place for place in parts if place[0] == name]:
                    try:
                        parts[place].append(fitted[place].score(queries).cpu().numpy())
                    except Exception as error:  # one detector must not cost the others
                        found.failures[place]["" if key == "id_test" else key] = reason_of(error)
                        del parts[place]
    kept, ids, named = described(dataset, broken)  # which refuses a set without a readable image
    for place, scores in parts.items():
        found.scores[place][key] = np.concatenate(scores)
    means = {name: one.sample_mean for name, one in statistics.items()}
    return _Pass(FeatureBank({}, torch.cat(logits), kept, ids, broken=named), statistics, means, lowest)


def _fit(model: Any, inputs: Inputs, found: Streamed, detectors: Sequence[str]) -> dict[Place, FeatureDetector]:
    fitted: dict[Place, FeatureDetector] = {}
    train = found.passes["id_train"]
    for name, stats in train.statistics.items():
        head = head_of(model) if inputs.head_fits and name == model.head_tap else None
        present = stats.present
        means, counts = stats.means[present], stats.counts[present]
        moments = TapMoments(present, counts, means, stats.within, lowest=train.lowest[name], head=head)
        for detector in detectors:
            try:
                fitted[name, detector] = create_feature_detector(detector).fit(moments)
            except Exception as error:
                found.failures[name, detector][""] = reason_of(error)
    return fitted


def _statistics(streamed: Streamed, tap: str, split: str) -> ClassStatistics:
    if bool((streamed.banks[split].labels < 0).any()):
        raise UserError("the set has no labels")
    return streamed.passes[split].statistics[tap]


def _scored(streamed: Streamed, place: Place) -> Scored:
    failures = streamed.failures.get(place, {})
    if "" in failures:
        raise UserError(failures[""])
    return Scored(streamed.scores[place], failures)
