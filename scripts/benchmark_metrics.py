"""How long all detection metrics of 5 million + 5 million scores take, against one NumPy sort of the same scores.

    python scripts/benchmark_metrics.py [--scores 5000000] [--repeat 5] [--peers]

Prints the best of the repeats, in wall time and in processor time (which other programs on the machine do not touch),
and whether ours stays within twice the sort. ``--peers`` adds scikit-learn and, where installed, pytorch-ood.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from ood_nc.scores import detection_metrics

LIMIT = 2.0


def measure(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Best wall and best processor time in seconds."""
    wall, processor = [], []
    for _ in range(repeat):
        started = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return min(wall), min(processor)


def scikit_learn(inside: np.ndarray, outside: np.ndarray) -> None:
    """The same metrics by scikit-learn, except for those it does not have."""
    from sklearn import metrics

    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    scores = np.r_[inside, outside]
    metrics.roc_auc_score(truth, scores)
    metrics.roc_curve(truth, scores, drop_intermediate=False)
    metrics.average_precision_score(truth, scores)
    metrics.average_precision_score(1 - truth, -scores)


def pytorch_ood(inside: np.ndarray, outside: np.ndarray) -> None:
    """pytorch-ood's own collection; outlier scores there, so the sign is reversed."""
    from pytorch_ood.metrics import OODMetrics

    collection = OODMetrics()
    labels = torch.cat([torch.zeros(len(inside)), -torch.ones(len(outside))]).long()
    collection.update(-torch.from_numpy(np.r_[inside, outside]), labels)
    collection.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=5_000_000, help="per side")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    sides = [rng.normal(shift, 1, arguments.scores) for shift in (1, 0)]
    print(f"{arguments.scores:,} + {arguments.scores:,} scores, {torch.get_num_threads()} of {os.cpu_count()} cores")
    for dtype in (np.float64, np.float32):
        compare(*(side.astype(dtype) for side in sides), arguments.repeat, arguments.peers)


def compare(inside: np.ndarray, outside: np.ndarray, repeat: int, peers: bool) -> None:
    """Measure and print every row for one pair of score vectors."""
    together = np.concatenate([inside, outside])
    rows = {
        "one NumPy sort": measure(lambda: np.sort(together), repeat),
        "ood_nc": measure(lambda: detection_metrics(inside, outside), repeat),
    }
    if peers:
        rows["scikit-learn"] = measure(lambda: scikit_learn(inside, outside), 1)
        try:
            rows["pytorch-ood"] = measure(lambda: pytorch_ood(inside, outside), 1)
        except ImportError:
            print("pytorch-ood is not installed: left out")
    base = rows["one NumPy sort"]
    for name, (wall, processor) in rows.items():
        print(
            f"{inside.dtype.name:8} {name:15} wall {wall:7.3f} s ({wall / base[0]:5.2f} x)   "
            f"processor {processor:7.3f} s ({processor / base[1]:5.2f} x)"
        )
    verdict = "within" if rows["ood_nc"][0] <= LIMIT * base[0] else "above"
    print(f"{inside.dtype.name:8} ood_nc is {verdict} {LIMIT:g} x one sort")


if __name__ == "__main__":
    main()
