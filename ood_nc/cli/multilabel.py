"""A run on label sets, from ``ood-nc run`` with the section ``multilabel`` in its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ood_nc.cli.show import say, table
from ood_nc.config import Config
from ood_nc.documents import partial_means
from ood_nc.files import write_lock

if TYPE_CHECKING:
    from ood_nc.evaluation import Results


def evaluate_multilabel(config: Config) -> None:
    """Measure a trained run on label sets into its directory, and print what was found."""
    from ood_nc.data import load_label_sets
    from ood_nc.multilabel import evaluate_label_sets
    from ood_nc.training import load_run

    assert config.multilabel is not None
    model, _ = load_run(config.run_directory, which="last")
    data = load_label_sets(config.data, config.multilabel, seed=config.train.seed, workers=config.train.workers)
    results = evaluate_label_sets(model, data, config)
    with write_lock(config.run_directory / "results.json"):
        results.save(config.run_directory)
    _show(results)


def _show(results: Results) -> None:
    run = results.identity["run"]
    rows = results.select(kind="accuracy", dataset="id_test", method="head")
    table(f"{run}: label sets of held-out images", ["metric", "value"], [[row["metric"], _text(row)] for row in rows])
    collapse = [row for row in results.select(kind="collapse", dataset="id_train") if row["metric"].startswith("mlab_")]
    body = [[row["tap"], row["metric"], _text(row)] for row in collapse]
    table(f"{run}: multi-label collapse", ["tap", "metric", "value"], body)
    for row in results.select(kind="detection", dataset="mean", group="ood", metric="fpr95_id_positive"):
        say(f"mean FPR95, {row['method']} at {row['tap']}: {_text(row)}")
    for note in [*partial_means(results.main_rows), *results.identity["notes"]]:
        say(note)


def _text(row: dict[str, object]) -> str:
    value = row["value"]
    return f"{value:.4g}" if isinstance(value, float) else "-"
