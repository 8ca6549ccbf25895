"""Networks on graphs in the paper's other settings: docs/graphs/settings.csv, which docs/graphs.py shows.

python scripts/graph_settings.py FOLDER [OUT]

Runs that FOLDER has are not trained again; what was begun goes on. Minutes of one core.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ood_nc.config import Config, load
from ood_nc.evaluation import Results
from ood_nc.graphs import SETTINGS
from ood_nc.graphs.evaluation import evaluate_graphs
from ood_nc.graphs.training import train_graphs

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "graphs" / "cpu-32-layers.yaml"
NODES = 200
COMMON = {
    "train.epochs": 8,
    "train.collapse_interval": 0,
    "evaluation.detectors": ["energy"],
    "evaluation.bootstrap": 0,
}
FOUR = {"graphs.hidden": 16, "graphs.node_features": 16, "optim.lr": 0.006, "train.epochs": 8}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "C = 4, heterophilic": ("c4-n1500-heterophilic", FOUR),
    "C = 2, 1 + 64 + 1 layers": ("c2-n1500", {"graphs.layers": 66}),
}
COLUMNS = ("setting", "metric", "of", "value", "low", "high", "graphs")


def configuration(name: str, folder: Path, **overrides: Any) -> Config:
    """The small network in that setting, on graphs of `NODES` nodes with the a and b of the named ones."""
    setting, own = RUNS[name]
    model = SETTINGS[setting]
    scale = model.nodes / math.log(model.nodes) * math.log(NODES) / NODES
    graphs = {"nodes": NODES, "communities": model.communities, "p": model.p * scale, "q": model.q * scale}
    settings = {**COMMON, **{f"graphs.{key}": value for key, value in graphs.items()}, **own}
    experiment = "".join(letter for letter in name.replace(" ", "-") if letter.isalnum() or letter == "-")
    return load(CONFIG, {**settings, "output": str(folder), "experiment": experiment, **overrides})


def measured(config: Config) -> Results:
    """Train and measure one run, unless that is done."""
    directory = config.run_directory
    if not (directory / "results.json").exists():
        evaluate_graphs(train_graphs(config, resume=directory.exists())).save(directory)
    return Results.load(directory)


def rows(name: str, results: Results) -> Iterator[list[Any]]:
    """Overlap by method, and NC1 by layer before and after aggregation."""
    for row in results.select(metric="overlap"):
        yield [name, "overlap", row["method"], row["value"], row["low"], row["high"], row["n"]]
    for tap in results.identity["taps"]:
        for row in results.select(kind="collapse", tap=tap["name"], metric="nc1_ratio"):
            if not row["tap"].endswith((".w1", ".w2")):
                yield [name, "nc1_ratio", row["tap"], row["value"], row["low"], row["high"], row["n"]]


def main(folder: Path, out: Path, **overrides: Any) -> None:
    """Write the table of all runs."""
    found = [row for name in RUNS for row in rows(name, measured(configuration(name, folder, **overrides)))]
    with open(out, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "graphs" / "settings.csv")
