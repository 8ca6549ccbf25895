"""The results of a run on graphs: the long table of every other run, with its scores by node."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.collapse import ClassStatistics
from ood_nc.config import Config
from ood_nc.detection import list_detectors
from ood_nc.evaluation.results import STRICT, MakeRow, Results, Row, make_row
from ood_nc.evaluation.scores_table import correct_column, scores_table
from ood_nc.graphs.measurement import OverGraphs, collapse_by_layer, measure_features, over_graphs, taps
from ood_nc.graphs.node_detection import HEAD_TAP, NodeDetection, head_depth, outputs_of
from ood_nc.graphs.objective import accuracy, overlap
from ood_nc.graphs.sources import BlockSource, Sample
from ood_nc.graphs.spectral import OPERATORS, informative, projected_power_iterations, spectral_labels, spectrum
from ood_nc.graphs.traces import trace_bounds
from ood_nc.graphs.training import GraphTrainer
from ood_nc.training.run_directory import versions
from ood_nc.training.seeds import derive_seed

SPECTRAL_ITERATIONS = (32, 64, 128)
_SPECTRAL_NODES = 4000  # beyond, all eigenvectors of a dense matrix cost more than they tell


def evaluate_graphs(trainer: GraphTrainer) -> Results:
    """Overlap beside the spectral methods, collapse by layer, traces, OOD detection of nodes, of a trained network.

    Collapse rows hold the geometric mean over graphs, ``low`` and ``high`` one standard deviation of the logarithm
    around it. Detectors read [A^ H, H] of the last layer, on which its weights [W2, W1] are the linear head.
    """
    config, network = trainer.config, trainer.network
    count = trainer.graphs.test_graphs if trainer.graphs.dataset is None else 1
    tests = [trainer.source.test(number) for number in range(count)]
    outputs = [outputs_of(network, sample) for sample in tests]
    run = config.run_directory.name
    make: MakeRow = partial(make_row, {"run": run, "seed": config.train.seed, "protocol": STRICT})
    rows = _accuracy_rows(tests, outputs, trainer.source.classes, make)
    rows += _collapse_rows(trainer, tests, outputs, make)
    heterophilic = isinstance(trainer.source, BlockSource) and trainer.source.model.heterophilic
    rows += _spectral_rows(tests, trainer.source.classes, config.train.seed, make, heterophilic=heterophilic)
    detection = NodeDetection(trainer, make)
    rows += detection.rows(_detectors(config))
    right = {correct_column(HEAD_TAP, "head"): detection.correct}
    sets = [("id", "id_test", detection.ids("id_test"), detection.columns("id_test") | right)]
    sets += [("near", name, detection.ids(name), detection.columns(name)) for name in detection.ood]
    return Results(
        rows=rows,
        identity=_identity(trainer, tests, detection),
        series={"beliefs": _beliefs(tests, outputs), "spectra": _spectra(tests[0], heterophilic=heterophilic)},
        scores=scores_table(sets),
    )


def _detectors(config: Config) -> list[str]:
    patterns = config.evaluation.detectors
    return list(dict.fromkeys(name for pattern in patterns for name in list_detectors(pattern, kind="feature")))


def _accuracy_rows(tests: list[Sample], outputs: list[Tensor], classes: int, make: MakeRow) -> list[Row]:
    found: dict[str, list[float]] = {"overlap": [], "accuracy": []}
    for sample, out in zip(tests, outputs, strict=True):
        right = float((out.argmax(dim=1)[sample.nodes] == sample.matched(out)).double().mean())
        if not sample.named:
            right = accuracy(out.argmax(dim=1)[sample.nodes], sample.labels, classes)
        found["accuracy"].append(right)
        found["overlap"].append((right - 1 / classes) / (1 - 1 / classes))
    make = partial(make, kind="accuracy", dataset="id_test", group="id", method="head", tap=HEAD_TAP)
    return [_mean_row(values, make, metric=name) for name, values in found.items()]


def _mean_row(values: list[float], make: MakeRow, **where: Any) -> Row:
    """Arithmetic mean, and one standard deviation over graphs around it."""
    mean, deviation = float(np.mean(values)), float(np.std(values))
    return make(value=mean, low=mean - deviation, high=mean + deviation, n=len(values), **where)


def _collapse_rows(trainer: GraphTrainer, tests: list[Sample], outputs: list[Tensor], make: MakeRow) -> list[Row]:
    labelled = [(one.graph, one.matched(out), one.nodes) for one, out in zip(tests, outputs, strict=True)]
    depth = {tap.name: tap.depth for tap in taps(trainer.network)}
    make = partial(make, kind="collapse", dataset="id_test", group="id")
    rows = [
        _graph_row(found, make, tap=tap, depth=depth[tap], metric=metric)
        for (tap, metric), found in collapse_by_layer(trainer.network, labelled).items()
    ]
    if isinstance(trainer.source, BlockSource):
        ratios = [_trace_ratios(trainer, one, labels) for one, (_, labels, _) in zip(tests, labelled, strict=True)]
        rows += [
            _graph_row(found, make, tap=tap, depth=depth[tap], metric=metric)
            for (tap, metric), found in over_graphs(ratios).items()
        ]
    return rows


def _graph_row(found: OverGraphs, make: MakeRow, **where: Any) -> Row:
    return make(value=found.mean, low=found.low, high=found.high, n=found.graphs, **where)


def _trace_ratios(trainer: GraphTrainer, sample: Sample, labels: Tensor) -> dict[tuple[str, str], float]:
    """Ratios of the traces across each layer: measured, predicted, and the bounds."""
    assert isinstance(trainer.source, BlockSource)
    found: dict[tuple[str, str], float] = {}
    network, graph = trainer.network, sample.graph
    passes = zip(network.passes(graph.x, graph.edge_index), network.weights(), strict=True)
    for layer, (step, (w1, w2)) in enumerate(passes, 1):
        before = ClassStatistics(trainer.source.classes, step.input.shape[1]).update(step.input, labels)
        out = step.neighbours if step.own is None else step.neighbours + step.own
        after = ClassStatistics(trainer.source.classes, out.shape[1]).update(out, labels)
        ratios = (after.between.trace() / before.between.trace(), after.within.trace() / before.within.trace())
        bounds = trace_bounds(trainer.source.model, before, w1, w2)
        for name, measured, bound in zip(("between", "within"), ratios, bounds, strict=True):
            values = {"": float(measured), "_predicted": bound.predicted, "_low": bound.low, "_high": bound.high}
            found |= {(f"layer{layer:03d}", f"{name}_ratio{kind}"): value for kind, value in values.items()}
    return found


def _spectral_rows(tests: list[Sample], classes: int, seed: int, make: MakeRow, *, heterophilic: bool) -> list[Row]:
    """Overlap and NC1 of the spectral methods, after each number of iterations."""
    rows: list[Row] = []
    if tests[0].named or len(tests[0].labels) > _SPECTRAL_NODES:
        return rows
    for name in OPERATORS:
        found: dict[tuple[int, str], list[float]] = {}
        for number, sample in enumerate(tests):
            generator = torch.Generator().manual_seed(derive_seed(seed, name, number))
            graph, nodes = sample.graph, len(sample.labels)
            vectors = projected_power_iterations(
                graph.edge_index, nodes, classes, name, SPECTRAL_ITERATIONS, generator, heterophilic=heterophilic
            )
            for iterations, vector in zip(SPECTRAL_ITERATIONS, vectors, strict=True):
                guessed = overlap(spectral_labels(vector, classes), sample.labels, classes)
                found.setdefault((iterations, "overlap"), []).append(guessed)
                for metric in ("nc1_pinv", "nc1_ratio"):
                    value = measure_features(vector, sample.labels)[metric]
                    found.setdefault((iterations, metric), []).append(value)
        where = {"dataset": "id_test", "group": "id"}
        for (iterations, metric), values in found.items():
            kind = "accuracy" if metric == "overlap" else "collapse"
            rows.append(_mean_row(values, make, kind=kind, method=f"{name}@{iterations}", metric=metric, **where))
    return rows


def _beliefs(tests: list[Sample], outputs: list[Tensor]) -> list[dict[str, Any]]:
    """Histograms of each output by true community, over all test graphs."""
    edges = torch.linspace(-0.5, 1.5, 41)
    classes = outputs[0].shape[1]
    values = torch.cat([out[sample.nodes] for sample, out in zip(tests, outputs, strict=True)])
    labels = torch.cat([sample.matched(out) for sample, out in zip(tests, outputs, strict=True)])
    return [
        {
            "output": output,
            "community": community,
            "edges": edges.tolist(),
            "counts": torch.histogram(values[labels == community, output].clamp(-0.5, 1.5), edges).hist.int().tolist(),
        }
        for output in range(classes)
        for community in range(classes)
    ]


def _spectra(sample: Sample, *, heterophilic: bool) -> dict[str, Any]:
    """Of one graph the 16 smallest eigenvalues of each operator, and the Fiedler vector."""
    nodes = sample.graph.num_nodes
    if nodes > _SPECTRAL_NODES:
        return {}
    edges = sample.graph.edge_index
    found = {name: spectrum(edges, nodes, name, heterophilic=heterophilic) for name in OPERATORS}
    return {
        name: {
            "values": one.values[:16].tolist(),
            "fiedler": informative(one, 2, heterophilic=heterophilic)[:, 0].tolist(),
        }
        for name, one in found.items()
    }


def _identity(trainer: GraphTrainer, tests: list[Sample], detection: NodeDetection) -> dict[str, Any]:
    config, network, source = trainer.config, trainer.network, trainer.source
    widths = [tuple(layer.lin_rel.weight.shape) for layer in network.convolutions]
    found = [
        {"name": tap.name, "depth": tap.depth, "pooling": "nodes", "dim": width[tap.depth % 4 < 2]}
        for tap in taps(network)
        for width in [widths[tap.depth // 4]]
    ]
    found.append(
        {"name": HEAD_TAP, "depth": head_depth(trainer), "pooling": "nodes", "dim": int(network.head().shape[1])}
    )
    notes = ["collapse: geometric mean over graphs, low and high one standard deviation of the logarithm around it"]
    if isinstance(source, BlockSource):
        notes.append(f"exact recovery margin |sqrt a - sqrt b| - sqrt C: {source.model.recovery_margin:+.3f}")
    sizes = {"id_test": sum(len(one.nodes) for one in detection.mixed)}
    sizes |= {name: len(detection.ids(name)) for name in detection.ood}
    return {
        "run": config.run_directory.name,
        "seed": config.train.seed,
        "protocol": STRICT,
        "model": f"GraphConv x {len(network.layers)}{'' if network.own_weight else ', without W1'}",
        "taps": found,
        "head_tap": HEAD_TAP,
        "head_used": True,
        "classes": source.classes,
        "class_names": None,
        "detectors": list(detection.scores),
        "probes": [],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "datasets": {
            name: {"n": n, "group": "id" if name == "id_test" else "near", "fingerprint": _fingerprint(trainer, name)}
            for name, n in sizes.items()
        },
        "notes": notes,
        "graphs": len(tests),
    }


def _fingerprint(trainer: GraphTrainer, name: str) -> str:
    """Equal for runs whose nodes of that set are the same."""
    drawn = trainer.graphs.model_dump(exclude={"hidden", "layers", "own_weight", "train_graphs", "fit_graphs"})
    text = json.dumps([name, trainer.config.train.seed, trainer.source.fingerprint(), drawn])
    return hashlib.sha256(text.encode()).hexdigest()
