"""Builds the documents of two realistic runs and of their comparison, for the tests and for looking at the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ood_nc.documents import seal
from tests.helpers.report_measurements import DETECTORS, OOD, TAPS, TRANSFER, RunMaker

Row = dict[str, Any]


def build_run(
    directory: Path,
    name: str = "controlled",
    *,
    taps: Sequence[str] = TAPS,
    detectors: Sequence[str] = DETECTORS,
    ood: dict[str, str] | None = None,
    seed: int = 0,
    strength: float = 1.0,
    epochs: int = 20,
) -> Path:
    """Write results.json, metrics.jsonl, config.yaml and environment.json of one run; returns ``directory``."""
    ood = OOD if ood is None else ood
    maker = RunMaker(name, tuple(taps), tuple(detectors), ood, seed, strength)
    rows = maker.rows()
    document = {
        "schema": 1,
        "identity": maker.identity(),
        "rows": rows,
        "relations": list(maker.relations()),
        "choices": list(maker.choices(rows)),
        "series": {"histograms": list(maker.histograms())},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_document(directory, document)
    (directory / "config.yaml").write_text(maker.config(), encoding="utf-8")
    (directory / "environment.json").write_text(json.dumps(maker.environment()), encoding="utf-8")
    lines = [json.dumps(line) for line in maker.log(epochs)]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def write_document(directory: Path, document: dict[str, Any]) -> None:
    """Write results.json as it is, with the digest that belongs to it."""
    (directory / "results.json").write_text(json.dumps(seal(document), allow_nan=False), encoding="utf-8")


def build_comparison(directory: Path, **options: Any) -> tuple[list[Path], dict[str, Any]]:
    """Two runs and the document that compares them."""
    taps = tuple(options.pop("taps", TAPS))
    runs = [
        build_run(directory / "baseline", "baseline", taps=taps[:-1], strength=0.35, **options),
        build_run(directory / "controlled", "controlled", taps=taps, strength=1.0, **options),
    ]
    documents = [json.loads((run / "results.json").read_text(encoding="utf-8")) for run in runs]
    differences = list(_differences(taps, options.get("ood") or OOD))
    comparison = {
        "schema": 1,
        "runs": [document["identity"] for document in documents],
        "reference": "baseline",
        "rule": "Fixed before any OOD or transfer data is read: detection is judged on the tap the head reads.",
        "headline": [_headline("baseline", taps[-2]), _headline("controlled", taps[-1])],
        "verdict": (
            "controlled against baseline (1 seed): mean FPR95 (ID positive) over 2 OOD sets -21.4 points "
            "[-27.9, -14.6] (better); mean transfer error over 2 sets -6.2 points [-9.0, -3.1] (better); "
            "ID accuracy -0.6 points [-1.9, +0.8] (no difference shown)."
        ),
        "verdicts": [],
        "differences": differences,
        "relations": [{**entry, "n": 2 * entry["n"]} for entry in documents[1]["relations"]],
        "notes": ["controlled against baseline: empty-folder: 0 images are in both runs; only these are compared"],
    }
    return runs, comparison


def _headline(run: str, tap: str) -> Row:
    methods = {"detectors": ["knn", "energy"], "probe": "linear"}
    return {"run": run, "detection_tap": tap, "transfer_tap": "encoder", **methods}


def _differences(taps: Sequence[str], ood: dict[str, str]) -> Iterator[Row]:
    places = [(f"{taps[-2]} → {taps[-1]}", True), *((tap, False) for tap in taps[:-1])]
    for tap, headline in places:
        base = {"tap": tap, "a": "baseline", "b": "controlled", "seeds": 1, "headline": headline}
        for metric, value in (("fpr95_id_positive", -0.214), ("auroc", 0.081)):
            sets = [*((name, group) for name, group in ood.items() if name != "empty-folder"), ("mean", "ood")]
            for dataset, group in sets:
                entry = {
                    **base,
                    "kind": "detection",
                    "dataset": dataset,
                    "group": group,
                    "method": "energy",
                    "metric": metric,
                }
                shown = value * (1 if headline else 0.2)
                yield {
                    **entry,
                    "difference": shown,
                    "low": shown - 0.065,
                    "high": shown + 0.068,
                    "n": 240,
                    "by_seed": [shown],
                }
    base = {"a": "baseline", "b": "controlled", "seeds": 1, "headline": True}
    for dataset in (*TRANSFER, "mean"):
        entry = {
            **base,
            "tap": "encoder",
            "kind": "transfer",
            "dataset": dataset,
            "group": "transfer",
            "method": "linear",
        }
        numbers = {"difference": -0.062, "low": -0.09, "high": -0.031, "n": 300, "by_seed": [-0.062]}
        yield {**entry, "metric": "transfer_error", **numbers}
    entry = {**base, "tap": f"{taps[-2]} → {taps[-1]}", "kind": "accuracy", "dataset": "id_test", "group": "id"}
    numbers = {"difference": -0.006, "low": -0.019, "high": 0.008, "n": 360, "by_seed": [-0.006]}
    yield {**entry, "method": "head", "metric": "accuracy", **numbers}
