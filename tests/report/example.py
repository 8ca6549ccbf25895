"""Builds the documents of two realistic runs and of their comparison, for the tests and for looking at the report."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TAPS = ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "encoder", "projector")
DETECTORS = ("msp", "max_logit", "energy", "knn", "mahalanobis", "vim", "nci", "etf_cosine")
OOD = {"other-digits": "near", "textures": "far", "empty-folder": "far"}
TRANSFER = ("other-digits", "flowers")
PROBES = ("linear", "knn", "nearest_mean")
COLLAPSE = (
    *("nc1_pinv", "nc1_ratio", "cdnv", "vci", "nc2_norm", "nc2_angle", "nc2_etf", "nc3_duality"),
    *("nc4_ncc", "ncc_accuracy", "effective_rank", "entropy_nn"),
)
DETECTION_METRICS = ("auroc", "fpr95_id_positive", "fpr95_ood_positive", "aupr_in", "aupr_out")
EMPTY = "the OOD side is empty: 0 samples against 360 of ID"
NO_HEAD = "the tap is not what the head reads"
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
    maker = _Maker(name, tuple(taps), tuple(detectors), ood, seed, strength)
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
    (directory / "results.json").write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    (directory / "config.yaml").write_text(maker.config(), encoding="utf-8")
    (directory / "environment.json").write_text(json.dumps(maker.environment()), encoding="utf-8")
    lines = [json.dumps(line) for line in maker.log(epochs)]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


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
        "rule": "Fixed before any OOD or transfer data is read: detection is judged on the tap the head reads, by energy.",
        "standing": [],
        "verdict": (
            "controlled against baseline (1 seed): mean FPR95 (ID positive) over 2 OOD sets -21.4 points [-27.9, -14.6] "
            "(better); mean transfer error over 2 sets -6.2 points [-9.0, -3.1] (better); ID accuracy -0.6 points "
            "[-1.9, +0.8] (no difference shown)."
        ),
        "verdicts": [],
        "differences": differences,
        "relations": [{**entry, "n": 2 * entry["n"]} for entry in documents[1]["relations"]],
        "notes": ["controlled against baseline: empty-folder: 0 images are in both runs; only these are compared"],
    }
    return runs, comparison


class _Maker:
    def __init__(
        self, name: str, taps: tuple[str, ...], detectors: tuple[str, ...], ood: dict[str, str], seed: int, strength: float
    ) -> None:
        self.name, self.taps, self.detectors, self.ood = name, taps, detectors, ood
        self.seed, self.strength = seed, strength
        self.random = random.Random(f"{name}{seed}")

    def rows(self) -> list[Row]:
        return [*self._collapse(), *self._detection(), *self._transfer(), *self._accuracy()]

    def _row(self, depth: int, **values: Any) -> Row:
        base = {"run": self.name, "seed": self.seed, "protocol": "strict", "tap": self.taps[depth], "depth": depth}
        empty = dict.fromkeys(("low", "high", "n", "selected_on", "reason"))
        return {**base, **empty, **values}

    def _spread(self, depth: int) -> float:
        """NC1 of a tap: falls with depth, held up at a controlled encoder, lowest at the projector."""
        position = depth / max(len(self.taps) - 1, 1)
        value = 9.0 * math.exp(-3.2 * position)
        if self.taps[depth] == "encoder":
            value *= 1 + 1.5 * self.strength
        return value * (1 + 0.04 * self.random.random())

    def _collapse(self) -> Iterator[Row]:
        scale = dict(zip(COLLAPSE, (1, 1.4, 0.7, 0.05, 0.05, 0.06, 0.1, 0.11, 0.02, -0.04, 6, -0.3), strict=True))
        for depth in range(len(self.taps)):
            spread = self._spread(depth)
            for split, factor, n in (("id_train", 1.0, 1200), ("id_test", 1.15, 360)):
                for metric in COLLAPSE:
                    value: float | None = scale[metric] * spread * factor + (1.0 if metric == "ncc_accuracy" else 0.0)
                    reason = None
                    if metric == "nc3_duality" and depth < len(self.taps) - 1:
                        value, reason = None, NO_HEAD
                    common = {"kind": "collapse", "dataset": split, "group": "id", "method": "head", "n": n}
                    yield self._row(depth, **common, metric=metric, value=value, reason=reason)

    def _detection(self) -> Iterator[Row]:
        for depth in range(len(self.taps)):
            for index, detector in enumerate(self.detectors):
                found: dict[tuple[str, str], list[float]] = {}
                for name, group in self.ood.items():
                    for row in self._detect(depth, index, detector, name, group):
                        yield row
                        if row["value"] is not None:
                            for member in (group, "ood"):
                                found.setdefault((member, row["metric"]), []).append(row["value"])
                for (group, metric), values in found.items():
                    mean = sum(values) / len(values)
                    common = {"kind": "detection", "dataset": "mean", "group": group, "method": detector, "n": len(values)}
                    yield self._row(depth, **common, metric=metric, value=mean, **_around(mean, 0.02))

    def _detect(self, depth: int, index: int, detector: str, name: str, group: str) -> Iterator[Row]:
        common = {"kind": "detection", "dataset": name, "group": group, "method": detector}
        undefined = EMPTY if name == "empty-folder" else None
        if detector == "etf_cosine" and depth == 0:
            undefined = "etf_cosine needs at least as many dimensions as classes less one: tap stem has 2, 4 classes"
        if undefined:
            for metric in DETECTION_METRICS:
                yield self._row(depth, **common, metric=metric, value=None, n=0, reason=undefined)
            return
        position = depth / (len(self.taps) - 1)
        ease = 0.18 if group == "far" else 0.0
        auroc = 0.55 + 0.25 * position * (0.6 + 0.4 * self.strength) + ease + 0.012 * index % 0.05
        auroc = min(auroc + 0.02 * self.random.random(), 0.995)
        fpr = min(1.0, max(0.01, 2.4 * (1 - auroc)))
        values = (auroc, fpr, min(1.0, 1.3 * fpr), auroc - 0.02, auroc - 0.05)
        for metric, value in zip(DETECTION_METRICS, values, strict=True):
            yield self._row(depth, **common, metric=metric, value=value, n=240, **_around(value, 0.025))

    def _transfer(self) -> Iterator[Row]:
        for depth in range(len(self.taps)):
            for index, probe in enumerate(PROBES):
                values = []
                for number, name in enumerate(TRANSFER):
                    peak = 0.7 if self.strength > 0.5 else 0.5
                    position = depth / (len(self.taps) - 1)
                    value = 0.9 - 0.5 * (position - peak) ** 2 - 0.05 * index - 0.1 * number
                    values.append(value)
                    common = {"kind": "transfer", "dataset": name, "group": "transfer", "method": probe, "n": 300}
                    extra = {"metric": "accuracy", "selected_on": "held out of train", **_around(value, 0.03)}
                    yield self._row(depth, **common, value=value, **extra)
                mean = sum(values) / len(values)
                common = {"kind": "transfer", "dataset": "mean", "group": "transfer", "method": probe, "n": len(values)}
                yield self._row(depth, **common, metric="accuracy", value=mean, **_around(mean, 0.02))

    def _accuracy(self) -> Iterator[Row]:
        common = {"kind": "accuracy", "dataset": "id_test", "group": "id", "metric": "accuracy", "n": 360}
        last = len(self.taps) - 1
        yield self._row(last, **common, method="head", value=0.9694 - 0.006 * self.strength, **_around(0.9694, 0.018))
        for depth in range(len(self.taps)):
            value = 0.6 + 0.36 * depth / last
            yield self._row(depth, **common, method="linear", value=value, **_around(value, 0.02))

    def relations(self) -> Iterator[Row]:
        errors = [("detection", error, name) for name in self.detectors for error in ("1-auroc", "fpr95_id_positive")]
        errors += [("transfer", "transfer_error", probe) for probe in PROBES]
        for kind, error, method in errors:
            for metric in COLLAPSE:
                for normalized in (False, True):
                    r = (0.77 if kind == "detection" else -0.6) * (0.8 + 0.2 * self.random.random())
                    entry = {"x": metric, "y": error, "method": method, "kind": kind, "normalized": normalized}
                    entry |= {"collapse_on": "id_train", "n": 14, "taps": len(self.taps)}
                    if metric == "nc3_duality":
                        undefined = dict.fromkeys(("pearson", "pearson_low", "pearson_high"))
                        undefined |= dict.fromkeys(("spearman", "spearman_low", "spearman_high"))
                        yield {**entry, **undefined, "reason": "1 taps with both values; at least 3 are needed"}
                        continue
                    entry |= {"pearson": r, "pearson_low": r - 0.2, "pearson_high": min(1.0, r + 0.15)}
                    entry |= {"spearman": 0.9 * r, "spearman_low": 0.9 * r - 0.2, "spearman_high": 0.9 * r + 0.1}
                    yield {**entry, "pearson_within_depth": None, "pearson_across_runs": None, "reason": None}

    def choices(self, rows: list[Row]) -> Iterator[Row]:
        for task, metric, methods, sign in (
            ("detection", "fpr95_id_positive", self.detectors, 1),
            ("transfer", "accuracy", PROBES, -1),
        ):
            group = "ood" if task == "detection" else "transfer"
            chosen = self.taps[-1] if task == "detection" else self.taps[2]
            for method in methods:
                wanted = {"kind": task, "dataset": "mean", "group": group, "method": method, "metric": metric}
                values = {row["tap"]: row["value"] for row in rows if wanted.items() <= row.items()}
                best = min(values, key=lambda tap: sign * values[tap])
                rule = "lowest nc1_pinv on ID train" if sign == 1 else "highest nc1_pinv among taps above the floor"
                entry = {"task": task, "method": method, "metric": metric, "chosen_tap": chosen, "best_tap": best}
                entry |= {"value_chosen": values[chosen], "value_best": values[best], "rule": rule, "reason": None}
                yield {**entry, "regret": sign * (values[chosen] - values[best])}

    def histograms(self) -> Iterator[Row]:
        edges = [-4 + 0.4 * step for step in range(25)]
        for depth, tap in enumerate(self.taps):
            for detector in self.detectors:
                for name in ("id_test", *(name for name in self.ood if name != "empty-folder")):
                    centre = 1.0 + 0.4 * depth / len(self.taps) if name == "id_test" else -0.6 - 0.2 * depth
                    heights = [math.exp(-0.5 * (edge + 0.2 - centre) ** 2) for edge in edges[:-1]]
                    counts = [round(300 * height / sum(heights)) for height in heights]
                    yield {"tap": tap, "detector": detector, "dataset": name, "edges": edges, "counts": counts}

    def identity(self) -> dict[str, Any]:
        taps = [
            {"name": tap, "depth": depth, "pooling": "avg" if depth < len(self.taps) - 2 else "as it is", "dim": 64 << min(depth, 3)}
            for depth, tap in enumerate(self.taps)
        ]
        datasets: dict[str, Any] = {
            "id_train": {"n": 1200, "group": "id", "fingerprint": "5d41402abc4b2a76", "duplicates": 0, "shared_classes": []},
            "id_test": {"n": 360, "group": "id", "fingerprint": "7d793037a0760186", "duplicates": 0, "shared_classes": []},
        }
        for number, (name, group) in enumerate(self.ood.items()):
            size = 0 if name == "empty-folder" else 240
            entry = {"n": size, "group": group, "fingerprint": f"{number:016x}", "duplicates": 0, "shared_classes": []}
            datasets[name] = entry
        first = next(iter(self.ood))
        datasets[first] |= {"duplicates": 20, "shared_classes": ["seven"], "broken": [["img/7.png", "truncated file"]]}
        return {
            "run": self.name,
            "seed": self.seed,
            "protocol": "strict",
            "model": "resnet10t",
            "taps": taps,
            "head_tap": self.taps[-1],
            "detectors": list(self.detectors),
            "probes": list(PROBES),
            "classes": ["zero", "one", "two", "three"],
            "created": "2025-11-25T13:05:00+00:00",
            "versions": {"ood_nc": "0.1.0", "torch": "2.6.0", "timm": "1.0.12", "python": "3.12.4"},
            "weights_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "seconds": {"forward": 4.2, "detection": 5.9, "transfer": 3.1, "total": 14.0},
            "datasets": datasets,
            "warnings": ["empty-folder: no images, so every detection figure on it is undefined"],
        }

    def config(self) -> str:
        kind, weight = ("simplex_etf", 0.05) if self.strength > 0.5 else ("none", 0.0)
        return (
            f"output: runs\nexperiment: {self.name}\nmodel:\n  name: resnet10t\n  projector:\n    kind: {kind}\n"
            f"loss:\n  entropy_weight: {weight}\noptim:\n  opt: adamw\n  lr: 0.002\ntrain:\n  epochs: 20\n  seed: {self.seed}\n"
        )

    def environment(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "time": "2025-11-25T13:00:00+00:00",
            "command": ["ood-nc", "train", "--config", "quickstart", "--experiment", self.name],
            "device": "cpu",
            "processes": 1,
            "versions": {"ood_nc": "0.1.0", "torch": "2.6.0"},
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "branch": "main", "changed": False},
            "platform": "Linux-6.1-x86_64",
            "resumed": [],
        }

    def log(self, epochs: int) -> Iterator[dict[str, Any]]:
        for epoch in range(1, epochs + 1):
            progress = epoch / epochs
            task = 0.35 + 1.2 * math.exp(-4 * progress)
            entropy = 0.4 + 0.5 * math.exp(-3 * progress)
            lr = 0.001 * (1 + math.cos(math.pi * progress))
            common = {"step": 19 * epoch, "epoch": float(epoch)}
            train: dict[str, Any] = {**common, "split": "train", "loss": task, "task": task, "accuracy": 0.98 - 0.6 * math.exp(-5 * progress)}
            if self.strength > 0.5:
                train |= {"loss": task + 0.05 * entropy, "entropy/encoder": entropy}
            yield {**train, "lr": lr, "images_per_second": 900.0}
            yield {**common, "split": "val", "loss": task + 0.08, "accuracy": 0.96 - 0.6 * math.exp(-5 * progress)}
            measured = {
                f"collapse/{tap}/{metric}": 9 * math.exp(-progress * (1 + depth / 2))
                for depth, tap in enumerate(self.taps)
                for metric in ("nc1_pinv", "cdnv")
            }
            yield {**common, "split": "collapse", **measured}


def _around(value: float, half: float) -> dict[str, float]:
    return {"low": max(0.0, value - half), "high": min(1.0, value + half)}


def _differences(taps: Sequence[str], ood: dict[str, str]) -> Iterator[Row]:
    places = [(f"{taps[-2]} → {taps[-1]}", True), *((tap, False) for tap in taps[:-1])]
    for tap, standing in places:
        base = {"tap": tap, "a": "baseline", "b": "controlled", "seeds": 1, "standing": standing}
        for metric, value in (("fpr95_id_positive", -0.214), ("auroc", 0.081)):
            sets = [*((name, group) for name, group in ood.items() if name != "empty-folder"), ("mean", "ood")]
            for dataset, group in sets:
                entry = {**base, "kind": "detection", "dataset": dataset, "group": group, "method": "energy", "metric": metric}
                shown = value * (1 if standing else 0.2)
                yield {**entry, "difference": shown, "low": shown - 0.065, "high": shown + 0.068, "n": 240, "by_seed": [shown]}
    base = {"a": "baseline", "b": "controlled", "seeds": 1, "standing": True}
    for dataset in (*TRANSFER, "mean"):
        entry = {**base, "tap": "encoder", "kind": "transfer", "dataset": dataset, "group": "transfer", "method": "linear"}
        numbers = {"difference": -0.062, "low": -0.09, "high": -0.031, "n": 300, "by_seed": [-0.062]}
        yield {**entry, "metric": "transfer_error", **numbers}
    entry = {**base, "tap": f"{taps[-2]} → {taps[-1]}", "kind": "accuracy", "dataset": "id_test", "group": "id"}
    numbers = {"difference": -0.006, "low": -0.019, "high": 0.008, "n": 360, "by_seed": [-0.006]}
    yield {**entry, "method": "head", "metric": "accuracy", **numbers}
