"""Five changes to the paper's arm `both`, at a tenth of the claim's budget: configs/ends/preregistration.md.

    python scripts/better_ends.py --data-dir claim-data --output ends-runs

The data are those of scripts/claim_data.py. What is finished is skipped, what was begun is gone on with. The
table of what is there is printed at the end, with `--table` at once.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import ttest_1samp

from ood_nc.cli.evaluate import evaluate_run
from ood_nc.config import Config, load
from ood_nc.evaluation import Results
from ood_nc.training import train

CONFIGS = Path(__file__).parent.parent / "configs"
NUMBERS = {
    "FPR95, k-NN": {"kind": "detection", "tap": "projector", "method": "knn", "metric": "fpr95_id_positive"},
    "FPR95, energy": {"kind": "detection", "tap": "projector", "method": "energy", "metric": "fpr95_id_positive"},
    "transfer error": {"kind": "transfer", "tap": "encoder", "method": "linear", "metric": "accuracy"},
    "ID accuracy": {"kind": "accuracy", "tap": "projector", "method": "head", "metric": "accuracy"},
}


def configuration(arm: str, seed: int, plan: dict[str, Any], data: Path, output: Path) -> Config:
    """The configuration of one run."""
    own = {"data.root": str(data / "fashion"), "output": str(output), "experiment": f"{arm}-seed{seed}"}
    return load(CONFIGS / "claim" / "fashion.yaml", {**plan["budget"], **plan["arms"][arm], **own, "train.seed": seed})


def number(results: Results, wanted: dict[str, str]) -> float:
    """A number of one run: the mean over its sets, folds of one set counted as one."""
    by_set = defaultdict(list)
    for row in results.select(**wanted):
        if row["dataset"] != "mean" and row["dataset"] != "id_train" and row["value"] is not None:
            by_set[row["dataset"].partition(" (fold")[0]].append(row["value"])
    mean = float(np.mean([np.mean(values) for values in by_set.values()]))
    return 1 - mean if wanted["kind"] == "transfer" else mean


def table(plan: dict[str, Any], output: Path) -> str:
    """Every arm minus the reference, in points, with Student's interval over the seeds that both have."""
    values: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for arm in plan["arms"]:
        for seed in plan["seeds"]:
            folder = output / f"{arm}-seed{seed}"
            if (folder / "results.json").exists():
                values[arm][seed] = [number(Results.load(folder), wanted) for wanted in NUMBERS.values()]
    reference = values[plan["reference"]]
    lines = ["| minus `both` | seeds | " + " | ".join(NUMBERS) + " |", "|---" * (len(NUMBERS) + 2) + "|"]
    for arm, found in values.items():
        seeds = sorted(found.keys() & reference.keys())
        if arm == plan["reference"] or not seeds:
            continue
        differences = 100 * np.array([np.subtract(found[seed], reference[seed]) for seed in seeds])
        lines.append(f"| `{arm}` | {len(seeds)} | " + " | ".join(shown(column) for column in differences.T) + " |")
    return "\n".join(lines)


def shown(points: np.ndarray) -> str:
    """Mean and interval; of one seed the difference alone."""
    if len(points) < 2:
        return f"{points.mean():+.1f}"
    interval = ttest_1samp(points, 0.0).confidence_interval()
    return f"{points.mean():+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("claim-data"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    plan = yaml.safe_load((CONFIGS / "ends" / "plan.yaml").read_text())
    for seed in [] if arguments.table else plan["seeds"]:
        for arm in plan["arms"]:
            config = configuration(arm, seed, plan, arguments.data_dir, arguments.output)
            if not (config.run_directory / "results.json").exists():
                evaluate_run(train(config, resume=config.run_directory.exists()), which="last")
                print(table(plan, arguments.output), flush=True)
    print(table(plan, arguments.output))


if __name__ == "__main__":
    main()
