"""A run on graphs, from ``ood-nc run`` with the section ``graphs`` in its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ood_nc.cli.show import say, table
from ood_nc.config import Config
from ood_nc.files import write_lock

if TYPE_CHECKING:
    from ood_nc.evaluation import Results


def run_graphs(config: Config, *, resume: bool) -> Path:
    """Train and measure on graphs into the run directory, and print collapse by layer and overlap."""
    from ood_nc.graphs.evaluation import evaluate_graphs
    from ood_nc.graphs.training import train_graphs

    results = evaluate_graphs(train_graphs(config, resume=resume))
    with write_lock(config.run_directory / "results.json"):
        results.save(config.run_directory)
    _show(results)
    return config.run_directory


def _show(results: Results) -> None:
    values = {(row["tap"], row["metric"]): row["value"] for row in results.select(kind="collapse")}
    layers = [str(tap["name"]) for tap in results.identity["taps"] if "." not in tap["name"] and tap["name"] != "head"]
    keys = [(kind, metric) for metric in ("nc1_pinv", "nc1_ratio") for kind in ("", ".aggregated")]
    body = [[layer, *(_shown(values.get((layer + kind, metric))) for kind, metric in keys)] for layer in layers]
    columns = ["layer's input", *(f"{metric}{', aggregated' if kind else ''}" for kind, metric in keys)]
    table(f"{results.identity['run']}: collapse by layer, before and after aggregation", columns, body)
    for row in results.select(kind="accuracy", metric="overlap"):
        method = "network" if row["method"] == "head" else row["method"]
        say(f"overlap, {method}: {row['value']:.3f} ({row['n']} graphs)")
    for note in results.identity["notes"]:
        say(note)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
