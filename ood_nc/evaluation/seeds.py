"""One configuration under several seeds: every number as a mean, with what another training would make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from ood_nc.documents import MEAN, SCHEMA_VERSION, mean_key, plain, sets_of_means
from ood_nc.errors import UserError
from ood_nc.evaluation.collapse_relations import relate
from ood_nc.evaluation.results import Results, check_loaded, joined_rows
from ood_nc.headline import HEADLINE_RULE, headline

_CELL = ("protocol", "kind", "tap", "dataset", "group", "method", "metric")


def over_seeds(results: Sequence[Results], *, confidence: float = 0.95) -> dict[str, Any]:
    """Mean and Student's t interval over seeds of every number that all runs have.

    The interval speaks of training again under another seed; that of a single run, from resampling its images, does
    not. Between seeds the images are the same, so the two are not added.

    Args:
        results: one a seed, two or more.
        confidence: of the intervals.

    Returns:
        A document that the report reads as it reads a comparison, with ``seeds``: a row for each number, with ``value``
        (the mean), ``low``, ``high``, ``by_seed`` (seed to value).

    Raises:
        UserError: fewer than two results, two of one seed, or what are none.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import evaluate, over_seeds
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> runs = [evaluate(features=arrays, detectors=["knn"], probes=[], bootstrap=20, seed=seed,
        ...                  run=f"run-seed{seed}") for seed in (0, 1)]
        >>> row = next(row for row in over_seeds(runs)["seeds"] if row["metric"] == "auroc")
        >>> row["value"], row["by_seed"]
        (1.0, {0: 1.0, 1: 1.0})
    """
    check_loaded(results)
    seeds = [result.seed for result in results]
    if len(set(seeds)) < max(2, len(seeds)):
        raise UserError(f"An interval over seeds needs two runs or more, each of its own seed; got seeds {seeds}.")
    values: dict[tuple[Any, ...], dict[int, float]] = {}
    for seed, result in zip(seeds, results, strict=True):
        averaged = sets_of_means(result.rows)
        for row in result.rows:
            if row["value"] is not None:
                # Means over other sets, or other numbers of them, are not one number.
                sets = (row["n"], averaged.get(mean_key(row))) if row["dataset"] == MEAN else None
                values.setdefault((*(row[name] for name in _CELL), sets), {})[seed] = float(row["value"])
    rows = [
        {**dict(zip(_CELL, cell, strict=False)), **_interval(by_seed, confidence)}
        for cell, by_seed in values.items()
        if len(by_seed) == len(seeds)
    ]
    return {
        "schema": SCHEMA_VERSION,
        "runs": [plain(result.identity) for result in results],
        "rule": HEADLINE_RULE,
        "verdicts": _sentences(results, rows),
        "differences": [],
        "relations": relate(joined_rows(results), confidence=confidence),
        "notes": [],
        "seeds": rows,
    }


def _interval(by_seed: dict[int, float], confidence: float) -> dict[str, Any]:
    values = np.array(list(by_seed.values()))
    half = student.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return {"value": mean, "low": mean - float(half), "high": mean + float(half), "by_seed": by_seed}


def _sentences(results: Sequence[Results], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The headline over seeds, one sentence a number, with every seed."""
    chosen = headline(results[0].identity)
    detection = {"kind": "detection", "tap": chosen.detection_tap, "dataset": MEAN, "group": "ood"}
    transfer = {"kind": "transfer", "tap": chosen.transfer_tap, "dataset": MEAN, "metric": "accuracy"}
    wanted: dict[str, dict[str, Any]] = {
        f"mean FPR95 (ID positive) by {name}": {**detection, "metric": "fpr95_id_positive", "method": name}
        for name in chosen.detectors
    }
    error = f"mean transfer error by the {chosen.probe} probe"
    wanted[error] = {**transfer, "method": chosen.probe}
    wanted["ID accuracy"] = {"kind": "accuracy", "method": "head", "metric": "accuracy"}
    main = [row for result in results for row in result.main_rows if row["value"] is not None]
    protocol = main[0]["protocol"] if main else None
    sentences = []
    for label, equals in wanted.items():
        row = next((row for row in rows if row["protocol"] == protocol and equals.items() <= row.items()), None)
        if row is not None:
            sentences.append(_sentence(label, row, as_error=label == error))
        elif any(equals.items() <= row.items() for row in main):
            sentences.append(f"{label}: no mean, for not every seed has it over the same sets.")
    return sentences


def _sentence(label: str, row: dict[str, Any], *, as_error: bool) -> str:
    def points(value: float) -> str:
        # Few seeds reach further than a share can be.
        return f"{100 * min(max(1 - value if as_error else value, 0.0), 1.0):.1f}"

    low, high = (row["high"], row["low"]) if as_error else (row["low"], row["high"])
    each = ", ".join(f"seed {seed} {points(value)}" for seed, value in row["by_seed"].items())
    return (
        f"{label}: {points(row['value'])} % [{points(low)}, {points(high)}] over {len(row['by_seed'])} seeds ({each})."
    )
