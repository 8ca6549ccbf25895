"""Trains, evaluates and reports what docs/claim.md claims: every arm and seed of configs/claim/plan.yaml in its order.

    python scripts/claim.py train --data-dir claim-data --output claim-runs
    python scripts/claim.py evaluate --data-dir claim-data --output claim-runs

With --curves: the runs of the plan's curves, each the plan's own but for one setting. The first can be stopped at any
time: what is finished is skipped, what was begun is gone on with; one thread is enough. The second measures what is
trained by the suite's protocols and keeps the rows that the page needs in docs/claim.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from ood_nc.config import Config, load
from ood_nc.data import eval_transform, load_data
from ood_nc.evaluation import Results, evaluate
from ood_nc.features import extract
from ood_nc.models import ControlledModel, build_model, load_weights
from ood_nc.training import train

RESULTS = Path(__file__).parent.parent / "docs" / "claim"
COLUMNS = ("protocol", "tap", "depth", "kind", "dataset", "group", "method", "metric", "value", "n")
METRICS = {
    "accuracy": ("accuracy",),
    "transfer": ("accuracy",),
    "detection": ("auroc", "fpr95_id_positive", "fpr95_paper"),
    "collapse": ("nc1_pinv", "nc1_ratio", "nc2_etf", "nc3_duality", "nc4_bias", "entropy_nn", "effective_rank"),
}
TAPS = ["block1", "block2", "block3", "block4", "block5", "encoder", "projector"]
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


def plan(suites: list[str] | None = None, curves: bool = False) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every run in order, all or those of some suites, with what its arm changes in the suite's configuration."""
    content = yaml.safe_load((FOLDER / "plan.yaml").read_text())
    for stage in content["curves" if curves else "order"]:
        if suites and stage["suite"] not in suites:
            continue
        for seed in stage["seeds"]:
            for value in stage.get("values", [None]):
                for arm in stage["arms"]:
                    changes = dict(content["arms"][arm])
                    if value is None:
                        yield Job(stage["suite"], arm, seed), changes
                    else:
                        name = f"{arm}.{stage['key'].rpartition('.')[2]}={value}"
                        yield Job(stage["suite"], name, seed), {**changes, stage["key"]: value}


def configuration(job: Job, changes: dict[str, Any], data: Path, output: Path) -> Config:
    """The configuration of one run."""
    file = FOLDER / f"{job.suite}.yaml"
    root = data / Path(yaml.safe_load(file.read_text())["data"]["root"]).name
    overrides = {"data.root": str(root), "output": str(output), "experiment": job.name}
    return load(file, {**changes, **overrides, "train.seed": job.seed})


def train_all(data: Path, output: Path, suites: list[str] | None, curves: bool) -> None:
    """Train what is not trained."""
    for job, changes in plan(suites, curves):
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


def evaluate_all(data: Path, output: Path, suites: list[str] | None, curves: bool) -> None:
    """Measure what is trained and not measured yet."""
    for job, changes in plan(suites, curves):
        kept = RESULTS / ("curves" if curves else "results") / f"{job.name}.csv"
        if kept.exists() or not (output / f"{job.name}.trained").exists():
            continue
        start = time.process_time()
        config = configuration(job, {**changes, "model.taps": TAPS}, data, output)
        results = measure(config, config.run_directory / "checkpoints" / "last.safetensors", job)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept, results)
        text = f"{time.process_time() - start:.0f} s of processor, commit {commit()}"
        trained = (output / f"{job.name}.trained").read_text().strip()
        kept.with_suffix(".txt").write_text(f"trained: {trained}\nmeasured: {text}\n")
        say(f"{job.name}: measured, {text}")


def measure(config: Config, weights: Path, job: Job) -> Results:
    """The suite's protocols from one pass, and the accuracy on clean ID training images."""
    data = load_data(config.data, seed=job.seed, check_images=False)
    model = build_model(config.model, data.id_train.num_classes)
    load_weights(model, weights)
    model.class_names = data.id_train.class_names
    assert data.id_test is not None
    results = evaluate(
        model,
        id=data.id_test,
        id_train=data.id_train,
        ood=data.ood,
        transfer=data.transfer,
        groups=data.groups,
        protocols=config.evaluation.protocols,
        detectors=config.evaluation.detectors,
        probes=config.evaluation.probes,
        bootstrap=0,
        seed=job.seed,
        device="cpu",
        run=job.name,
    )
    results.rows.append(clean_accuracy(model, data.id_train, results.select(kind="accuracy", method="head")[0]))
    return results


def clean_accuracy(model: ControlledModel, train: Any, like: dict[str, Any]) -> dict[str, Any]:
    """The head's accuracy on the training images as they are, without augmentation."""
    bank = extract(model, train.with_transform(eval_transform(model.preprocessing)))
    value = (bank.logits.argmax(dim=1) == bank.labels).double().mean().item()
    return {**like, "dataset": "id_train", "value": value, "n": len(bank)}


def write(path: Path, results: Results) -> None:
    """Keep the rows that the page is made of."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in results.rows:
            if row["metric"] in METRICS[row["kind"]] and row["dataset"] != "mean":
                value = "" if row["value"] is None else f"{row['value']:.7g}"
                table.writerow([value if column == "value" else row[column] for column in COLUMNS])


def commit() -> str:
    """The commit of the code that runs."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=FOLDER, capture_output=True, text=True)
    return answer.stdout.strip()[:12]


def say(text: str) -> None:
    """A line of the log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("--data-dir", type=Path, required=True, help="what scripts/claim_data.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--suites", nargs="+", help="these alone, so that two processes share the work (default: all)")
    parser.add_argument("--curves", action="store_true", help="the plan's curves instead of its order")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    act = {"train": train_all, "evaluate": evaluate_all}[arguments.what]
    act(arguments.data_dir, arguments.output, arguments.suites, arguments.curves)


if __name__ == "__main__":
    main()
