"""Where controlled runs land: NC1 of the full training set at the end against its target, as a Markdown table.

    python scripts/control_trial.py [--targets 0.1 0.3 1] [--seeds 0 1] [--epochs 20] [--output FOLDER] [KEY=VALUE ...]

A small residual network on the bundled digits of five classes; KEY=VALUE is any key of the configuration. Runs that are
in the folder are read, not repeated.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ood_nc.config import load
from ood_nc.tracking import read_log
from ood_nc.training import RunDirectory, train

SETTINGS: dict[str, Any] = {
    "model.name": "test_resnet",
    "model.img_size": 32,
    "model.taps": ["encoder", "projector"],
    "data.test": None,
    "data.cache": "memory",
    "augment.scale": [0.6, 1.0],
    "augment.hflip": 0.0,
    "train.batch_size": 32,
    "train.workers": 0,
    "train.device": "cpu",
    "train.track_interval": 0,
    "train.log_interval": 5,
    "optim.lr": 2e-3,
    "loss.entropy_weight": 0.0,
}
NAME = "control/encoder/nc1/"


def landed(settings: dict[str, Any], target: float, seed: int, folder: Path) -> tuple[float, float, float]:
    """NC1 at the end, the last weight, and the accuracy on held-out images."""
    more = {"output": str(folder), "experiment": f"nc1-{target:g}-seed{seed}", "train.seed": seed}
    config = load(None, {**settings, **more, "control": [{"tap": "encoder", "metric": "nc1", "target": target}]})
    directory = RunDirectory(config.run_directory)
    if directory.read_status().get("state") != "finished":
        train(config, resume=directory.holds_a_run)
    lines = read_log(directory.metrics)
    control = [line for line in lines if line["split"] == "control"][-1]
    accuracy = [line["accuracy"] for line in lines if line["split"] == "val"][-1]
    return control[NAME + "measured"], control[NAME + "weight"], accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    pairs = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in given.keys)}
    settings = {**SETTINGS, "train.epochs": given.epochs, **pairs}
    print("| target | seed | NC1 at the end | off by | weight | validation accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        for target in given.targets:
            for seed in given.seeds:
                value, weight, accuracy = landed(settings, target, seed, given.output or Path(place))
                off = math.exp(abs(math.log(value / target))) - 1
                cells = [f"{target:g}", f"{seed}", f"{value:.3g}", f"{off:.0%}", f"{weight:.2g}", f"{accuracy:.1%}"]
                print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
