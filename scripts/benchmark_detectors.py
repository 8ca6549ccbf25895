"""How long every feature detector takes to fit and to score, against the matrix products that its formula cannot avoid.

    python scripts/benchmark_detectors.py [--train 50000] [--queries 90000] [--dim 512] [--classes 100] [--only GLOB]

Features are float32. The products are timed in float32, and in float64 (which distances in whitened space need to keep
five digits); with them one selection a row where the formula selects. All are the best of ``--repeat``, side by side. A
detector alone builds what it needs from the arrays. Then all but k-NN run once more from shared intermediate results,
against the exact k-NN search and faiss called bare in one large batch. Peak memory is the growth of the resident set
while a detector fits and scores, over the size of its inputs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import faiss
import numpy as np
import torch

from ood_nc.detection import TapQueries, TapStatistics, create_detector, list_detectors

Product = tuple[str, str, str]
# Rows, inner dimension, columns: N train samples, B queries, d dimensions, C classes, r = d / 2, m a bank's samples.
WHITENED: list[Product] = [("d", "N", "d"), ("B", "d", "d"), ("B", "d", "C")]
HEAD: list[Product] = [("B", "d", "C")]
PRODUCTS: dict[str, list[Product]] = {
    "mahalanobis": WHITENED,
    "relative_mahalanobis": [*WHITENED, ("B", "d", "d")],
    "ssd": [("d", "N", "d"), ("B", "d", "d")],
    "gmm": WHITENED,
    "vim": [("d", "N", "d"), ("N", "d", "r"), ("B", "d", "r")],
    "residual": [("d", "N", "d"), ("B", "d", "r")],
    "neco": [("d", "N", "d"), ("B", "d", "components_")],
    "pnml": [("d", "N", "d"), ("B", "d", "d"), ("B", "d", "C")],
    "class_mean_cosine": HEAD,
    "etf_cosine": HEAD,
    "max_cosine": HEAD,
    "projection": HEAD,
    "react": HEAD,
    "dice": HEAD,
    "ash_p": HEAD,
    "ash_b": HEAD,
    "ash_s": HEAD,
    "vra": HEAD,
    "nac_ue": [("N", "C", "d"), ("B", "C", "d")],
    "nnguide": [("B", "d", "m")],
    "relation": [("B", "d", "m"), ("B", "C", "m")],
}
SELECTS = {"ash_p", "ash_b", "ash_s", "scale", "lts"}
BANKS = {"nnguide": 500, "relation": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=90_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--no-knn", action="store_true", help="leave out the searches, which take the longest")
    arguments = parser.parse_args()
    sizes = {"N": arguments.train, "B": arguments.queries, "d": arguments.dim, "C": arguments.classes}
    sizes["r"] = arguments.dim // 2
    problem = Problem(sizes)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, sizes {sizes}")
    names = [name for name in list_detectors(kind="feature") if name != "knn" and fnmatchcase(name, arguments.only)]
    head = f"{'detector':22s} {'fit s':>7s} {'score s':>8s} {'float32 s':>10s} {'ratio':>6s}"
    print(f"{head} {'float64 s':>10s} {'ratio':>6s} {'memory':>7s}")
    for name in names:
        print(row(name, problem, sizes, arguments.repeat), flush=True)
    together = shared(names, problem)
    print(f"all {len(names)} of them from shared intermediate results: {together:.1f} s")
    if not arguments.no_knn:
        search = timed(lambda: problem.alone("knn"))
        print(
            f"k-NN (k = 50), exact, fit and score: {search:.1f} s; faiss bare, one large batch: {problem.bare():.1f} s"
        )
        print(f"together / k-NN: {together / search:.2f}")


class Problem:
    """Gaussian classes of non-negative features, as a trained network's encoder gives them, and a head."""

    def __init__(self, sizes: dict[str, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        n, b, d, c = (sizes[name] for name in "NBdC")
        means = torch.randn(c, d, generator=generator)
        self.labels = torch.arange(n) % c
        self.features = self._rows(means, self.labels, generator)
        self.queries = self._rows(means, torch.arange(b) % c, generator)
        self.head = 0.2 * torch.randn(c, d, generator=generator), torch.randn(c, generator=generator)
        self.logits, self.query_logits = (
            rows @ self.head[0].T + self.head[1] for rows in (self.features, self.queries)
        )
        covariance = torch.cov(self.features.T)
        scale = covariance.diagonal().rsqrt()
        values = torch.linalg.eigvalsh(covariance * scale * scale[:, None]).flip(0)
        self.components = int((values.cumsum(0) / values.sum() < 0.9).sum()) + 1
        self.size = self.features.nbytes + self.queries.nbytes + self.logits.nbytes + self.query_logits.nbytes

    @staticmethod
    def _rows(means: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randn(len(labels), means.shape[1], generator=generator)
        for start in range(0, len(rows), 10_000):
            part = slice(start, start + 10_000)
            rows[part] += means[labels[part]]
        return rows.relu_()

    def statistics(self) -> TapStatistics:
        return TapStatistics(self.features, self.labels, logits=self.logits, head=self.head)

    def to_score(self) -> TapQueries:
        return TapQueries(self.queries, logits=self.query_logits)

    def alone(self, name: str) -> tuple[float, float]:
        """Seconds of fit and of score."""
        start = time.perf_counter()
        detector = create_detector(name).fit(self.statistics())
        fitted = time.perf_counter()
        detector.score(self.to_score())
        return fitted - start, time.perf_counter() - fitted

    def bare(self) -> float:
        """Seconds of a plain float32 search."""
        bank, queries = (np.ascontiguousarray(rows.numpy()) for rows in (self.features, self.queries))
        start = time.perf_counter()
        index = faiss.IndexFlatL2(bank.shape[1])
        index.add(bank)
        index.search(queries, 50)
        return time.perf_counter() - start


def row(name: str, problem: Problem, sizes: dict[str, int], repeat: int) -> str:
    with Peak() as peak:
        first = problem.alone(name)
    runs = [first, *(problem.alone(name) for _ in range(repeat - 1))] if sum(first) < 30 else [first]
    fit, score = min(runs, key=sum)
    bounds = ["", "", "", ""]
    if name in PRODUCTS or name in SELECTS:
        known = {**sizes, "m": BANKS.get(name, 0), "components_": problem.components}
        for place, dtype in ((0, torch.float32), (2, torch.float64)):
            bound = min(unavoidable(name, known, dtype, problem) for _ in range(repeat))
            bounds[place : place + 2] = [f"{bound:.2f}", f"{(fit + score) / bound:.2f}"]
    cells = f"{bounds[0]:>10s} {bounds[1]:>6s} {bounds[2]:>10s} {bounds[3]:>6s}"
    return f"{name:22s} {fit:7.2f} {score:8.2f} {cells} {peak.growth / problem.size:6.2f}x"


def unavoidable(name: str, sizes: dict[str, int], dtype: torch.dtype, problem: Problem) -> float:
    """Seconds of the products, and of one selection a row by NumPy where the formula selects."""
    seconds = sum(product(shape, sizes, dtype) for shape in PRODUCTS.get(name, []))
    if name in SELECTS:
        rows = problem.queries.numpy()
        kth = min(400, rows.shape[1] - 1)
        seconds += timed(lambda: [np.partition(rows[i : i + 2048], kth, axis=1) for i in range(0, len(rows), 2048)])
    return seconds


def product(shape: Product, sizes: dict[str, int], dtype: torch.dtype) -> float:
    rows, inner, columns = (sizes[name] for name in shape)
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    return timed(lambda: left @ right)


def shared(names: list[str], problem: Problem) -> float:
    start = time.perf_counter()
    train, queries = problem.statistics(), problem.to_score()
    for name in names:
        create_detector(name).fit(train).score(queries)
    return time.perf_counter() - start


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Peak:
    """Watches the resident set; ``growth`` is its largest excess over the start, in bytes."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.start = self.most = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def growth(self) -> int:
        return self.most - self.start

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.most = max(self.most, resident())


def resident() -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
