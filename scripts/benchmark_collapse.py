"""The cost of class statistics and every collapse metric against the one matrix product H'H over the same features.

Usage: python scripts/benchmark_collapse.py [--size N,D,C ...] [--dtype float32 float64] [--repeats K] [--batch B]
Product and measurement alternate in one process, so each ratio is of a pair run side by side; the median is printed
with the range, and beside it the median ratio of the processor time, which other work on the machine disturbs less
(with OMP_NUM_THREADS=1: threads that wait for each other use processor time too). Memory is the growth of the peak
resident set in a process of its own, over the size of the statistics.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch

from ood_nc.collapse import ClassStatistics, CollapseReport, measure

SIZES = ("50000,512,100", "100000,2048,1000")
ROWS = ("statistics", "metrics", "statistics + metrics", "second pass (nearest class mean)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=SIZES, metavar="N,D,C")
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, help="rows of an update; all at once when not given")
    parser.add_argument("--memory", metavar="N,D,C,DTYPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print_memory(arguments.memory, arguments.batch)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for size in arguments.size:
        for dtype in arguments.dtype:
            benchmark(size, dtype, arguments.repeats, arguments.batch)


def benchmark(size: str, dtype: str, repeats: int, batch: int | None) -> None:
    print(f"N,d,C = {size}, {dtype}: H'H {time_all(size, dtype, repeats, batch):.3f} s")
    command = [sys.executable, __file__, "--memory", f"{size},{dtype}"]
    if batch is not None:
        command += ["--batch", str(batch)]
    # Arrays that are freed go back to the system at once, so that the peak is what was held, not what malloc kept.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    print(
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.rstrip(), flush=True
    )


def time_all(size: str, dtype: str, repeats: int, batch: int | None) -> float:
    """Print the ratios, and return the median time of the product."""
    products, wall, processor = ratios(size, dtype, repeats, batch)
    for name in ROWS:
        middle, low, high = statistics.median(wall[name]), min(wall[name]), max(wall[name])
        used = statistics.median(processor[name])
        print(f"  {name:34s} {middle:5.2f} x   ({low:.2f} - {high:.2f})   processor time {used:5.2f} x")
    return statistics.median(products)


def ratios(
    size: str, dtype: str, repeats: int, batch: int | None
) -> tuple[list[float], dict[str, list[float]], dict[str, list[float]]]:
    """The times of the product, and by row the ratios to it, on the wall and of the processor."""
    features, labels, weight, bias = problem(size, dtype)
    run(features[:2048], labels[:2048], weight, bias, batch)
    products = []
    wall: dict[str, list[float]] = {name: [] for name in ROWS}
    processor: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(repeats):
        marks = [clocks()]
        features.T @ features
        marks.append(clocks())
        stats = accumulate(features, labels, len(weight), batch)
        marks.append(clocks())
        measure(stats, weight=weight, bias=bias, ood=features[:100])
        marks.append(clocks())
        measure(stats, features=features, labels=labels, metrics=["ncc_accuracy"])
        marks.append(clocks())
        products.append(marks[1][0] - marks[0][0])
        for clock, ratios in enumerate((wall, processor)):
            product, *parts = (after[clock] - before[clock] for before, after in pairwise(marks))
            for name, seconds in zip(ROWS, (parts[0], parts[1], parts[0] + parts[1], parts[2]), strict=True):
                ratios[name].append(seconds / product)
    return products, wall, processor


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def problem(size: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, dim, classes = (int(part) for part in size.split(","))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    means = torch.randn(classes, dim, generator=generator, dtype=getattr(torch, dtype))
    features = torch.randn(rows, dim, generator=generator, dtype=getattr(torch, dtype))
    for start in range(0, rows, 1000):
        features[start : start + 1000] += means[labels[start : start + 1000]]
    return features, labels, means, means[:, 0].clone()


def accumulate(features: torch.Tensor, labels: torch.Tensor, classes: int, batch: int | None) -> ClassStatistics:
    stats = ClassStatistics(classes, features.shape[1])
    for start in range(0, len(features), batch or len(features)):
        rows = slice(start, start + (batch or len(features)))
        stats.update(features[rows], labels[rows])
    assert len(stats.present) <= classes
    return stats


def run(
    features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, batch: int | None
) -> CollapseReport:
    return measure(accumulate(features, labels, len(weight), batch), weight=weight, bias=bias, ood=features[:100])


def print_memory(problem_name: str, batch: int | None) -> None:
    size, dtype = problem_name.rsplit(",", 1)
    features, labels, weight, bias = problem(size, dtype)
    # Libraries and thread pools take their share once, before the count starts.
    run(*problem("3000,512,100", dtype), batch)
    features[:2048].T @ features[:2048]
    held = sum(tensor.nbytes for tensor in ClassStatistics(len(weight), features.shape[1]).state_dict().values())
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    stats = accumulate(features, labels, len(weight), batch)
    accumulated = resident("VmHWM") - before
    measure(stats, weight=weight, bias=bias)
    peak = resident("VmHWM") - before
    print(
        f"  memory: statistics {held / 1e6:.1f} MB; beside them, at the peak {accumulated / held - 1:.2f} x while "
        f"accumulating, {peak / held - 1:.2f} x with the metrics"
    )


def resident(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
