"""``ood-nc quickstart``: the whole story on data that ships with scikit-learn."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ood_nc.cli.command import Command, read_config
from ood_nc.cli.compare import compare_runs
from ood_nc.cli.evaluating import evaluate_run
from ood_nc.cli.show import say, show_results

if TYPE_CHECKING:
    from ood_nc.evaluation import Results

RECIPE = "quickstart"
SEEDS = (0, 1, 2)

# What makes a run the baseline: no projector, no entropy term, the backbone's own normalisation.
BASELINE: dict[str, Any] = {"model.projector.kind": "none", "model.normalization": "native", "loss.entropy_weight": 0.0}
ARMS: dict[str, dict[str, Any]] = {"baseline": BASELINE, "controlled": {}}

OUTCOMES = (
    "What that does to detection and transfer, below, a few hundred small digits cannot settle: docs/claim.md asks it "
    "on larger sets."
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", default="runs/quickstart", help="where the runs and the report go")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.training import train

    output = Path(arguments.output)
    common = {"output": str(output), "train.device": arguments.device, "train.workers": arguments.workers}
    directories: list[Path] = []
    results: dict[str, list[Results]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm, changes in ARMS.items():
            run = f"{arm}-seed{seed}"
            say(f"{run}: training, then measuring every layer")
            config = read_config(RECIPE, {**common, **changes, "train.seed": seed, "experiment": run})
            directories.append(train(config, resume=config.run_directory.exists()))
            # On a task this easy the best validation accuracy comes long before classes have collapsed.
            results[arm].append(evaluate_run(directories[-1], which="last"))
    for found in results.values():
        show_results(found[0])
    sentences = [collapse_sentence(results["baseline"], results["controlled"]), OUTCOMES]
    report, verdict = compare_runs(directories, output / "report.html", first=sentences)
    say(verdict)
    say(f"report: {report}")
    return 0


def collapse_sentence(baseline: Sequence[Results], controlled: Sequence[Results]) -> str:
    """What happened to collapse, and how sure that is: NC1 of each tap as a multiple of the baseline's encoder.

    The multiple is a geometric mean over seeds, with Student's 95 % interval of the logarithms, paired by seed.

    Args:
        baseline: the reference's results, a seed each.
        controlled: the others, of the same seeds in the same order.
    """
    pairs = list(zip(baseline, controlled, strict=True))
    encoder, projector = (
        _multiple([_nc1(two, tap) / _nc1(one, "encoder") for one, two in pairs]) for tap in ("encoder", "projector")
    )
    if encoder.low > 1 > projector.high:
        told = "Collapse was controlled"
    elif encoder.mean > 1 > projector.mean:
        told = "Collapse moved as wanted, by no more than seeds differ"
    else:
        told = "Collapse was not controlled"
    return (
        f"{told}: NC1 (small is collapsed) of the encoder is {encoder} times the baseline encoder's, that of the "
        f"projector {projector} times (95 % over {len(pairs)} seeds)."
    )


class _Multiple(NamedTuple):
    low: float
    mean: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2g} [{self.low:.2g}, {self.high:.2g}]"


def _nc1(results: Results, tap: str) -> float:
    (row,) = results.select(protocol="strict", tap=tap, kind="collapse", dataset="id_train", metric="nc1_pinv")
    return float(row["value"])


def _multiple(ratios: Sequence[float]) -> _Multiple:
    import numpy as np
    from scipy.stats import t as student

    logs = np.log(ratios)
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return _Multiple(*(float(np.exp(logs.mean() + step)) for step in (-half, 0.0, half)))


COMMAND = Command(
    name="quickstart",
    summary="Train a baseline and a controlled model on bundled data, three seeds each, measure, compare, and report.",
    examples="""  ood-nc quickstart
  ood-nc quickstart --output /tmp/first-look""",
    add_arguments=_add_arguments,
    execute=_execute,
)
