"""Trains, evaluates and reports what docs/claim.md claims: every arm and seed of configs/claim/plan.yaml in its order.

    python scripts/claim.py train --data-dir claim-data --output claim-runs

It can be stopped at any time: what is finished is skipped, what was begun is gone on with. One thread is enough.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from ood_nc.config import Config, load
from ood_nc.training import train

FOLDER = Path(__file__).parent.parent / "configs" / "claim"


class Job(NamedTuple):
    """One run of the plan."""

    suite: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return f"{self.suite}-{self.arm}-seed{self.seed}"


def plan() -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every run in order, with what its arm changes in the suite's configuration."""
    content = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    for stage in content["order"]:
        for seed in stage["seeds"]:
            for arm in stage["arms"]:
                yield Job(stage["suite"], arm, seed), content["arms"][arm]


def configuration(job: Job, changes: dict[str, Any], data: Path, output: Path) -> Config:
    """The configuration of one run."""
    overrides = {"data.root": str(data / job.suite), "output": str(output), "experiment": job.name}
    return load(FOLDER / f"{job.suite}.yaml", {**changes, **overrides, "train.seed": job.seed})


def train_all(data: Path, output: Path) -> None:
    """Train what is not trained."""
    for job, changes in plan():
        done = output / f"{job.name}.trained"
        if done.exists():
            continue
        say(f"{job.name}: training")
        start, used = time.perf_counter(), time.process_time()
        config = configuration(job, changes, data, output)
        train(config, resume=config.run_directory.exists())
        text = (
            f"{time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor, commit {commit()}"
        )
        done.write_text(text + "\n")
        say(f"{job.name}: trained, {text}")


def commit() -> str:
    """The commit of the code that runs."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=FOLDER, capture_output=True, text=True)
    return answer.stdout.strip()[:12]


def say(text: str) -> None:
    """A line of the log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train",))
    parser.add_argument("--data-dir", type=Path, required=True, help="what scripts/claim_data.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train_all(arguments.data_dir, arguments.output)


if __name__ == "__main__":
    main()
