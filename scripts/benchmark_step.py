"""What a training step costs beside the plain one of timm, as the ratio of alternating steps in processor time.

    python scripts/benchmark_step.py [--model resnet18] [--size 64] [--batch 128] [--pairs 20]

The step is that of a run: projector, entropy term, controlled tap, the curve of every tap, the averages of the log.
What it does at intervals (the controller at every hundredth of the run, the curve in a tenth of the batches) it does
here about every tenth batch, as in a run of 1,000. The plain step is forward, cross-entropy, backward and the same
optimiser.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import timm
import torch
from torch.nn import functional

from ood_nc.config import load
from ood_nc.training.launch import accelerator_for
from ood_nc.training.setup import prepare
from ood_nc.training.steps import take_turn


def seconds(action: Callable[[], object]) -> float:
    """Processor time of it."""
    start = time.process_time()
    action()
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args(arguments)
    settings = {
        "model.name": given.model, "model.img_size": given.size, "train.batch_size": given.batch, "train.workers": 0,
        "train.epochs": 250, "train.device": "cpu", "train.track_interval": 10, "data.test": None,
        "optim.sched": "none",
        "control": [{"tap": "encoder", "metric": "nc1", "target": 1.0}],
        "loss.terms": [{"name": "entropy", "tap": "encoder", "weight": 0.05}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = load(None, {**settings, "output": folder, "experiment": "step"})
        with accelerator_for(config.train) as accelerator:
            setup = prepare(config, accelerator)
            setup.begin(0, 0)
            turn = next(setup.turns())
            images, targets, *_ = turn[0]
            plain = timm.create_model(given.model, num_classes=setup.model.num_classes)
            optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.05)
            normal = setup.normalize(images)

            def plain_step() -> None:
                functional.cross_entropy(plain(normal), targets, label_smoothing=0.1).backward()
                optimizer.step()
                optimizer.zero_grad()

            def own_step() -> None:
                done = take_turn(setup, 0, 0, turn)
                setup.averages.add(done.loss, done.parts, done.logits, done.targets, done.taps)
                assert setup.control is not None and setup.tracker is not None
                setup.control.step(done.parts, 1.0)
                setup.tracker.step(done.taps, done.targets)

            plain_step(), own_step()
            pairs = [(seconds(plain_step), seconds(own_step)) for _ in range(given.pairs)]
    ratio = sum(own for _, own in pairs) / sum(alone for alone, _ in pairs)
    middle = statistics.median(own / alone for alone, own in pairs)
    alone = statistics.mean(alone for alone, _ in pairs)
    print(f"{given.model}, {given.size} px, batch {len(images)}: plain step {alone:.3f} s, {given.pairs} pairs")
    print(f"ratio {ratio:.3f}, median of the pairs {middle:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
