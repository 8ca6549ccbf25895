"""A small run on graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ood_nc.config import Config, load

CPU = "configs/graphs/cpu-32-layers.yaml"
TINY = {
    "graphs.nodes": 40, "graphs.p": 0.5, "graphs.q": 0.05, "graphs.layers": 3, "graphs.train_graphs": 6,
    "graphs.test_graphs": 2, "graphs.fit_graphs": 2, "train.epochs": 2, "train.log_interval": 3,
    "evaluation.detectors": ["energy", "knn", "gmm", "ash_p"], "evaluation.bootstrap": 20,
}  # fmt: skip


def tiny(tmp_path: Path, **overrides: Any) -> Config:
    return load(CPU, {**TINY, "output": str(tmp_path), "experiment": "tiny", **overrides})
