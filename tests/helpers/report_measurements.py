"""Makes the measurements of one realistic run: rows, relations, choices, histograms, identity and log."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from statistics import mean
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


class RunMaker:
    """Makes what one run measures."""

    def __init__(
        self,
        name: str,
        taps: tuple[str, ...],
        detectors: tuple[str, ...],
        ood: dict[str, str],
        seed: int,
        strength: float,
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
                    of_head = metric in ("nc2_etf", "nc3_duality", "nc4_ncc")
                    common = {"kind": "collapse", "dataset": split, "group": "id", "n": n}
                    common["method"] = "head" if of_head else None
                    yield self._row(depth, **common, metric=metric, value=value, reason=reason)

            for name, group in self.ood.items():
                common = {"kind": "collapse", "dataset": name, "group": group, "method": None, "metric": "nc5_ortho"}
                if name == "empty-folder":
                    yield self._row(depth, **common, value=None, reason="the set holds no readable image")
                else:
                    yield self._row(depth, **common, value=0.3 / (depth + 1), n=240)

    def _detection(self) -> Iterator[Row]:
        for depth in range(len(self.taps)):
            for index, detector in enumerate(self.detectors):
                found: dict[tuple[str, str], list[float]] = {}
                timed = {"kind": "detection", "dataset": "id_test", "group": "id", "method": detector, "n": 840}
                yield self._row(depth, **timed, metric="seconds", value=0.01 * (index + 1))
                yield self._row(depth, **timed, metric="memory", value=0.5 * index)
                for name, group in self.ood.items():
                    for row in self._detect(depth, index, detector, name, group):
                        yield row
                        if row["value"] is not None:
                            for member in (group, "ood"):
                                found.setdefault((member, row["metric"]), []).append(row["value"])
                for (group, metric), values in found.items():
                    mean = sum(values) / len(values)
                    common = {
                        "kind": "detection",
                        "dataset": "mean",
                        "group": group,
                        "method": detector,
                        "n": len(values),
                    }
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
                    yield self._row(depth, **common, metric="seconds", value=0.2 / (index + 1))
                mean = sum(values) / len(values)
                common = {"kind": "transfer", "dataset": "mean", "group": "transfer", "method": probe, "n": len(values)}
                yield self._row(depth, **common, metric="accuracy", value=mean)
        last = len(self.taps) - 1
        for number, name in enumerate(TRANSFER):
            common = {"kind": "transfer", "dataset": name, "group": "transfer", "method": "linear"}
            yield self._row(last, **common, metric="retained", value=91.7 - number, n=last + 1)
            yield self._row(last, **common, metric="id_correlation", value=0.42 - number, n=last + 1)
            for depth in range(len(self.taps)):
                yield self._row(depth, **common, metric="id_alignment", value=0.05 * (depth + 1))

    def _accuracy(self) -> Iterator[Row]:
        common = {"kind": "accuracy", "dataset": "id_test", "group": "id", "metric": "accuracy", "n": 360}
        last = len(self.taps) - 1
        yield self._row(last, **common, method="head", value=0.9694 - 0.006 * self.strength, **_around(0.9694, 0.018))
        for depth in range(len(self.taps)):
            value = 0.6 + 0.36 * depth / last
            yield self._row(depth, **common, method="linear", value=value, **_around(value, 0.02))
            yield self._row(depth, **{**common, "metric": "seconds"}, method="linear", value=0.31)

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
            wanted = {"kind": task, "dataset": "mean", "group": group, "metric": metric}
            values = {(row["tap"], row["method"]): row["value"] for row in rows if wanted.items() <= row.items()}
            best = min(values, key=lambda place: sign * values[place])
            for rule, tap, method in (("headline", -1, 0), ("nc1_train", -2, -1)):
                chosen = self.taps[tap], methods[method]
                entry = {"task": task, "rule": rule, "text": f"what {rule} says", "recommended": rule == "nc1_train"}
                entry |= {"metric": metric, "chosen_tap": chosen[0], "method": chosen[1], "reason": None}
                entry |= {"best_tap": best[0], "best_method": best[1], "value_mean": mean(values.values())}
                entry |= {"value_chosen": values[chosen], "value_best": values[best]}
                yield {**entry, "regret": sign * (values[chosen] - values[best])}

    def histograms(self) -> Iterator[Row]:
        edges = [-4 + 0.4 * step for step in range(25)]
        for depth, tap in enumerate(self.taps):
            for detector in self.detectors if tap in ("encoder", self.taps[-1]) else ():
                for name in ("id_test", *(name for name in self.ood if name != "empty-folder")):
                    centre = 1.0 + 0.4 * depth / len(self.taps) if name == "id_test" else -0.6 - 0.2 * depth
                    heights = [math.exp(-0.5 * (edge + 0.2 - centre) ** 2) for edge in edges[:-1]]
                    counts = [round(300 * height / sum(heights)) for height in heights]
                    yield {"tap": tap, "detector": detector, "dataset": name, "edges": edges, "counts": counts}

    def identity(self) -> dict[str, Any]:
        taps = [
            {
                "name": tap,
                "depth": depth,
                "pooling": "avg" if depth < len(self.taps) - 2 else "as it is",
                "dim": 64 << min(depth, 3),
            }
            for depth, tap in enumerate(self.taps)
        ]
        datasets: dict[str, Any] = {
            "id_train": {
                "n": 1200,
                "group": "id",
                "fingerprint": "5d41402abc4b2a76",
                "duplicates": 0,
                "shared_classes": [],
            },
            "id_test": {
                "n": 360,
                "group": "id",
                "fingerprint": "7d793037a0760186",
                "duplicates": 0,
                "shared_classes": [],
            },
        }
        for number, (name, group) in enumerate(self.ood.items()):
            size = 0 if name == "empty-folder" else 240
            entry = {"n": size, "group": group, "fingerprint": f"{number:016x}", "duplicates": 0, "shared_classes": []}
            datasets[name] = entry
        first = next(iter(self.ood))
        duplicates = {"id_test": {"count": 20, "ids": ["img/1.png"]}, "id_train": {"count": 0, "ids": []}}
        broken = {"count": 1, "first": [["img/7.png", "truncated file"]]}
        datasets[first] |= {"duplicates": duplicates, "shared_classes": ["seven"], "broken": broken}
        return {
            "run": self.name,
            "seed": self.seed,
            "protocol": "strict",
            "model": "resnet10t",
            "taps": taps,
            "head_tap": self.taps[-1],
            "detectors": list(self.detectors),
            "probes": list(PROBES),
            "classes": 4,
            "class_names": ["zero", "one", "two", "three"],
            "created": "2025-11-25T13:05:00+00:00",
            "versions": {"ood_nc": "0.1.0", "torch": "2.6.0", "timm": "1.0.12", "python": "3.12.4"},
            "weights_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "seconds": {"forward": 4.2, "detection": 5.9, "transfer": 3.1, "total": 14.0},
            "datasets": datasets,
            "notes": ["empty-folder holds no images: it is undefined and in no mean"],
        }

    def config(self) -> str:
        kind, weight = ("simplex_etf", 0.05) if self.strength > 0.5 else ("none", 0.0)
        return (
            f"output: runs\nexperiment: {self.name}\nmodel:\n  name: resnet10t\n  projector:\n    kind: {kind}\n"
            f"loss:\n  entropy_weight: {weight}\noptim:\n  opt: adamw\n  lr: 0.002\n"
            f"train:\n  epochs: 20\n  seed: {self.seed}\n"
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
            train: dict[str, Any] = {
                **common,
                "split": "train",
                "loss": task,
                "task": task,
                "accuracy": 0.98 - 0.6 * math.exp(-5 * progress),
            }
            if self.strength > 0.5:
                train |= {"loss": task + 0.05 * entropy, "entropy/encoder": entropy}
                name = "control/encoder/nc1/"
                values = {"target": 4.0, "estimate": 9 - 5 * progress, "measured": 9 - 4.8 * progress, "weight": 0.1}
                yield {**common, "split": "control", **{name + key: value for key, value in values.items()}}
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
