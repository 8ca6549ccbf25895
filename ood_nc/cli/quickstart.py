"""``ood-nc quickstart``: the whole story on data that ships with scikit-learn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ood_nc.cli.command import Command, read_config
from ood_nc.cli.compare import compare_runs
from ood_nc.cli.evaluate import evaluate_run
from ood_nc.cli.show import say, show_results

RECIPE = "quickstart"

# What makes a run the baseline: no projector, no entropy term, the backbone's own normalisation.
BASELINE: dict[str, Any] = {
    "model.projector.kind": "none",
    "model.normalization": "native",
    "loss.entropy_weight": 0.0,
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="DIR", default="runs/quickstart", help="where the two runs and the report go"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.training import train

    output = Path(arguments.output)
    common = {"output": str(output), "train.device": arguments.device, "train.workers": arguments.workers}
    runs = []
    for name, changes in (("baseline", BASELINE), ("controlled", {})):
        say(f"{name}: training, then measuring every layer")
        config = read_config(RECIPE, {**common, **changes, "experiment": name})
        directory = train(config, resume=config.run_directory.exists())
        show_results(evaluate_run(directory))
        runs.append(directory)
    report, verdict = compare_runs(runs, output / "report.html")
    say(verdict)
    say(f"report: {report}")
    return 0


COMMAND = Command(
    name="quickstart",
    summary="Train a baseline and a controlled model on bundled data, measure, compare, and write the report.",
    examples="""  ood-nc quickstart
  ood-nc quickstart --output /tmp/first-look""",
    add_arguments=_add_arguments,
    execute=_execute,
)
