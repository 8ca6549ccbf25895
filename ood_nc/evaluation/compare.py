"""Comparison of runs: paired on the same images, grouped by seed, with a verdict that says what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ood_nc.documents import MEAN, SCHEMA_VERSION, distinct_name, group_of, plain
from ood_nc.errors import UserError
from ood_nc.evaluation.collapse_relations import relate
from ood_nc.evaluation.common_samples import CommonSamples
from ood_nc.evaluation.names import check_numbers
from ood_nc.evaluation.paired_differences import Cell, Difference, differences, left_out, with_means
from ood_nc.evaluation.results import Results, check_loaded, joined_rows, run_names
from ood_nc.evaluation.standings import standings
from ood_nc.files import expanded, write_text
from ood_nc.headline import HEADLINE_RULE, headline
from ood_nc.scores import nested_means, percentile_interval

_UNSCORED = "has no scores by sample, which the protocol paper keeps none of"


def compare(
    results: Sequence[Results], *, replicates: int = 500, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Compare runs with the first, on the images both have.

    Runs whose names differ only in the seed are one group; runs of two groups are paired by seed. The interval of a
    difference resamples the images, the same ones for both runs and for all seeds; with several seeds it also resamples
    these (`nested_means`). With one seed it says nothing about training again.

    Args:
        results: two or more; the group of the first is the reference.
        replicates: bootstrap replicates, 0 for no intervals.
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        The document of a comparison (comparison.json); its ``differences`` have ``kind, tap, dataset, group, method,
        metric, a, b, difference, low, high, n, seeds, by_seed, headline`` (what the verdict is made of). A mean over
        all near and far sets (that every seed has) has dataset ``mean`` and group ``ood``. Its ``standings`` and
        ``pareto`` are those of `ood_nc.evaluation.standings`.

    Raises:
        UserError: fewer than two results, one without scores by sample, what are none, or replicates below 0.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import compare, evaluate
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> runs = [evaluate(features=arrays, detectors=["knn"], probes=[], bootstrap=20, seed=seed,
        ...                  run=f"run-seed{seed}") for seed in (0, 1)]
        >>> document = compare(runs, replicates=20)
        >>> next(row["difference"] for row in document["differences"] if row["metric"] == "auroc")
        0.0
    """
    if len(results) < 2:
        raise UserError(f"A comparison needs two results or more, got {len(results)}.")
    check_loaded(results)
    check_numbers(replicates=(replicates, 0))
    names = run_names(results)
    groups = _groups(results, names)
    reference, *others = groups
    rows, verdicts = [], []
    noted_for: dict[str, list[str]] = {}
    standing, pareto = standings(groups, replicates=replicates, confidence=confidence, seed=seed)
    for other in others:
        found, notes, seeds = _compare_groups(groups[reference], groups[other], replicates, seed)
        entries = [_entry(reference, other, cell, parts, confidence, seed) for cell, parts in found.items()]
        rows += entries
        for note in dict.fromkeys(notes):
            noted_for.setdefault(note, []).append(other)
        verdicts.append(_verdict(reference, other, entries, seeds, notes))
    return {
        "schema": SCHEMA_VERSION,
        "runs": [plain(result.identity) for result in results],
        "reference": reference,
        "rule": HEADLINE_RULE,
        "headline": [
            {"run": name, **plain(vars(headline(result.identity)))} for name, result in zip(names, results, strict=True)
        ],
        "verdict": " ".join(verdicts),
        "verdicts": verdicts,
        "differences": rows,
        "standings": standing,
        "pareto": pareto,
        "relations": relate(joined_rows(results), replicates=replicates, confidence=confidence, seed=seed),
        "notes": [f"{', '.join(others)} against {reference}: {note}" for note, others in noted_for.items()],
    }


def save_comparison(comparison: Mapping[str, Any], path: str | Path) -> None:
    """Write the document as JSON, atomically.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ood_nc.evaluation import save_comparison
        >>> path = Path(tempfile.mkdtemp(), "comparison.json")
        >>> save_comparison({"differences": []}, path)
        >>> path.read_text().split()
        ['{', '"differences":', '[]', '}']
    """
    write_text(expanded(path), json.dumps(plain(comparison), allow_nan=False, indent=1))


def _groups(results: Sequence[Results], names: Sequence[str]) -> dict[str, dict[int, Results]]:
    """Group name to seed to result. Runs that would be one group alone are compared one by one."""
    groups: dict[str, dict[int, Results]] = {}
    for result, name in zip(results, names, strict=True):
        group = group_of(name)
        seed = result.seed
        by_seed = groups.setdefault(group, {})
        if seed in by_seed:
            groups[distinct_name(name, list(groups))] = {seed: result}
        else:
            by_seed[seed] = result
    if len(groups) == 1:
        return {name: {0: result} for name, result in zip(names, results, strict=True)}
    return groups


def _compare_groups(
    a: Mapping[int, Results], b: Mapping[int, Results], replicates: int, seed: int
) -> tuple[dict[Cell, list[Difference]], list[str], int]:
    """The differences of every pair of runs of one seed."""
    notes: list[str] = []
    seeds = [(found, found) for found in a if found in b]
    if not seeds:
        seeds = list(zip(a, b, strict=False))
        notes.append("no seed in common; paired in the order given")
    elif set(a) != set(b):
        notes.append(f"only the seeds of both are compared: {', '.join(str(found) for found, _ in seeds)}")
    found: dict[Cell, list[Difference]] = {}
    for seed_a, seed_b in seeds:
        one, two = a[seed_a], b[seed_b]
        pair = CommonSamples([one.samples(), two.samples()], replicates, seed)
        notes += [*left_out(pair), *_other_conditions(one, two)]
        for cell, difference in differences(pair, one.identity, two.identity).items():
            found.setdefault(cell, []).append(difference)
    notes += [
        f"{cell.dataset}, {_joined(cell.method)}: in {len(parts)} of {len(seeds)} seeds, so in no mean and no verdict"
        for cell, parts in found.items()
        if cell.headline and len(parts) < len(seeds)
    ]
    return with_means(found, len(seeds)), notes, len(seeds)


def _other_conditions(one: Results, two: Results) -> Iterator[str]:
    """What tells two runs apart beside what they are compared for."""
    a, b = (next((row["protocol"] for row in result.main_rows), None) for result in (one, two))
    if a != b:
        yield f"measured by the protocol {b}, not {a}: in no relation"
    for result in (one, two):
        if result.scores is not None and not any("/" in name for name in result.scores.column_names):
            name = result.identity.get("run", "the run")
            yield f"{name} {_UNSCORED}: evaluate it by strict too (--protocols strict paper)"
    known = [result.identity.get("datasets", {}) for result in (one, two)]
    prints = [{name: of.get("fingerprint") for name, of in sets.items() if name.endswith("/train")} for sets in known]
    learnt = [name for name, of in prints[0].items() if of and prints[1].get(name, of) != of]
    if learnt and "features" not in (one.identity.get("model"), two.identity.get("model")):
        yield f"{', '.join(learnt)}: other images in the two runs, so their probes differ in what they learn from too"


def _entry(a: str, b: str, cell: Cell, parts: Sequence[Difference], confidence: float, seed: int) -> dict[str, Any]:
    values = np.array([part.values[0] for part in parts])
    low, high = percentile_interval(
        nested_means(np.stack([part.values for part in parts]), seed, confidence)[1:], confidence
    )
    return {
        "kind": cell.kind,
        "tap": _joined(cell.tap),
        "dataset": cell.dataset,
        "group": cell.group,
        "method": _joined(cell.method),
        "metric": cell.metric,
        "a": a,
        "b": b,
        "difference": float(values.mean()),
        "low": low,
        "high": high,
        "n": parts[0].n,
        "seeds": len(parts),
        "by_seed": values.tolist(),
        "headline": cell.headline,
    }


def _joined(pair: tuple[str, str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} → {pair[1]}"


def _verdict(a: str, b: str, entries: Sequence[Mapping[str, Any]], seeds: int, notes: Sequence[str]) -> str:
    """One sentence: detection, transfer and ID accuracy, each with its interval and whether anything is shown."""
    parts = []
    for kind, metric, label, better in (
        ("detection", "fpr95_id_positive", "mean FPR95 (ID positive) over {n} OOD set{s}", -1),
        ("transfer", "transfer_error", "mean transfer error over {n} set{s}", -1),
        ("accuracy", "accuracy", "ID accuracy", 1),
    ):
        chosen = [e for e in entries if e["headline"] and e["metric"] == metric and e["seeds"] == seeds]
        n = len({e["dataset"] for e in chosen if e["dataset"] != MEAN and e["group"] != "covariate"})
        told = chosen[:1] if kind == "accuracy" else [e for e in chosen if e["group"] in ("ood", "transfer")]
        found = [
            # What differs in the method differs by it too.
            _points(entry, better) + (f" by {entry['method']}" if kind == "detection" or "→" in entry["method"] else "")
            for entry in told
            if kind == "accuracy" or entry["dataset"] == MEAN
        ]
        if found:
            parts.append(f"{label.format(n=n, s='' if n == 1 else 's')} {' and '.join(found)}")
    if not parts:
        unscored = dict.fromkeys(note for note in notes if _UNSCORED in note)
        why = "; ".join(unscored) or f"they share no samples{' in all seeds' if seeds > 1 else ''}"
        return f"{b} against {a}: nothing to compare, {why}."
    return f"{b} against {a} ({seeds} seed{'' if seeds == 1 else 's'}): {'; '.join(parts)}."


def _points(entry: Mapping[str, Any], better: int) -> str:
    value, low, high = entry["difference"], entry["low"], entry["high"]
    if low is None or high is None:
        return f"{100 * value:+.1f} points (no interval)"
    if low <= 0 <= high:
        shown = "no difference shown"
    else:
        shown = "better" if value * better > 0 else "worse"
    return f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] ({shown})"
