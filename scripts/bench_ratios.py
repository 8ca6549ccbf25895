"""Single parts of the evaluation over what they cannot avoid: products for detectors, H'H for collapse, one sort for
metrics. Each ratio is the median of runs that alternate with what they are divided by; `bench_suite` prints them."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import benchmark_collapse
import numpy as np
import torch
from benchmark_detectors import HEAD, PRODUCTS, Problem, Product, timed, unavoidable

from ood_nc.detection import TapQueries, TapStatistics, create_detector
from ood_nc.scores import detection_metrics

DETECTORS = ("mahalanobis", "relative_mahalanobis", "vim", "dice", "energy", "msp")
OF_LOGITS: dict[str, list[Product]] = {"vim": [("N", "d", "C"), *HEAD], "energy": HEAD, "msp": HEAD}
"""Products that give the logits: `benchmark_detectors` has them given, here they are the detector's to compute."""
PRODUCTS.update({name: [*PRODUCTS.get(name, []), *more] for name, more in OF_LOGITS.items()})
LONG = 5.0
"""Seconds after which a peer is not run again: some take a product a class."""


class Ratio(NamedTuple):
    """Ours over what cannot be avoided, and a peer's where it has the same."""

    what: str
    over: str
    ours: float
    peer: float | None = None


def ratios(rows: int, repeats: int = 7) -> Iterator[Ratio]:
    """Every ratio, each from a process of its own: what others took and gave back serves some better than others.

    Args:
        rows: N, of the fits; 1.8 N are scored, 2.5 N measured for collapse, 100 N scores a side for metrics.
        repeats: alternating runs.
    """
    types = ("float32", "float64")
    parts = ((detector_ratio, DETECTORS), (collapse_ratio, types), (metrics_ratio, types))
    for measure, names in parts:
        for name in names:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                yield process.apply(measure, (name, rows, repeats))


def collapse_ratio(dtype: str, rows: int, repeats: int) -> Ratio:
    """Statistics and every metric of 2.5 N rows of 512 features, 100 classes."""
    wall = benchmark_collapse.ratios(f"{5 * rows // 2},512,100", dtype, repeats, None)[1]
    return Ratio(f"collapse, {dtype}", "H'H", statistics.median(wall["statistics + metrics"]))


def metrics_ratio(dtype: str, rows: int, repeats: int) -> Ratio:
    """All metrics of 100 N scores a side, after one run that does not count."""
    generator = np.random.default_rng(0)
    inside, outside = (generator.normal(shift, 1, 100 * rows).astype(dtype) for shift in (1, 0))
    together, found = np.concatenate([inside, outside]), []
    for _ in range(repeats + 1):
        sort = timed(lambda: np.sort(together))
        found.append(timed(lambda: detection_metrics(inside, outside)) / sort)
    return Ratio(f"metrics, {dtype}", "one sort", statistics.median(found[1:]))


def detector_ratio(name: str, rows: int, repeats: int) -> Ratio:
    """Fit and score of N and 1.8 N rows of 512 float32 features, 100 classes, from features and head alone."""
    sizes = {"N": rows, "B": 9 * rows // 5, "d": 512, "C": 100, "r": 256}
    problem = Problem(sizes)
    peer = _pytorch_ood(problem).get(name)

    def ours() -> None:
        train = TapStatistics(problem.features, problem.labels, head=problem.head)
        create_detector(name).fit(train).score(TapQueries(problem.queries))

    found: list[float] = []
    theirs: list[float] = []
    ours()
    for _ in range(repeats):
        least = unavoidable(name, sizes, torch.float32, problem)
        found.append(timed(ours) / least)
        if peer and sum(theirs) * least < LONG:
            try:
                theirs.append(timed(peer) / least)
            except Exception as error:  # theirs must not cost ours
                print(f"pytorch-ood, {name}: {type(error).__name__}: {error}", file=sys.stderr)
                peer = None
    middle = statistics.median(theirs) if theirs else None
    return Ratio(f"{name}, fit + score", "float32 products", statistics.median(found), middle)


def _pytorch_ood(problem: Problem) -> dict[str, Callable[[], object]]:
    """The same detectors there, those that work from features; none where it is not installed."""
    try:
        from pytorch_ood import detector
    except ImportError:
        return {}
    weight, bias = problem.head

    def fitted(make: Callable[[], Any]) -> Callable[[], object]:
        return lambda: make().fit_features(problem.features, problem.labels).predict_features(problem.queries)

    return {
        "mahalanobis": fitted(lambda: detector.Mahalanobis(None)),
        "relative_mahalanobis": fitted(lambda: detector.RMD(None)),
        "vim": fitted(lambda: detector.ViM(None, d=256, w=weight, b=bias)),
        "energy": lambda: detector.EnergyBased.score(problem.queries @ weight.T + bias),
        "msp": lambda: detector.MaxSoftmax.score(problem.queries @ weight.T + bias),
    }
