"""What the theory of collapse on graphs says: block models, Condition C, free features; for docs/graphs.py."""

from __future__ import annotations

import math
from statistics import geometric_mean

import torch
from graph_page import Page, Points

from ood_nc.graphs import (
    SETTINGS,
    BlockModel,
    condition_c_deviation,
    condition_c_graph,
    fit_gufm,
    probability_bound,
    probability_exact,
)
from ood_nc.graphs.gufm import Gufm
from ood_nc.graphs.measurement import measure_features


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block_models(page: Page) -> None:
    page.write("""
## Block models

Each pair of nodes is drawn once, so that graphs have the stated p and q; `--graphs.draw paper` draws both directions and
joins them, as the authors' code does, which about doubles the degree. Exact recovery is possible where the margin
$|\\sqrt a - \\sqrt b| - \\sqrt C$ is positive, $a = pN/\\ln N$, $b = qN/\\ln N$; it stands in every run's notes.
""")
    rows = []
    for name, model in SETTINGS.items():
        inside = across = 0.0
        count = 2 if page.quick else 8
        for seed in range(count):
            graph = model.sample(generator(seed), dim=1)
            same = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).double()
            n, blocks = model.community_size, model.communities
            inside += float(same.sum()) / (blocks * n * (n - 1)) / count
            across += float((1 - same).sum()) / (blocks * (blocks - 1) * n * n) / count
        twice = BlockModel(model.nodes, model.communities, model.p, model.q, "paper")
        off = max(abs(inside / model.p - 1), abs(across / model.q - 1))
        rows.append(
            [name, model.p, model.q, inside, across, f"{off:.1%}", model.recovery_margin, twice.recovery_margin]
        )
        assert page.quick or off < 0.03
    head = ["setting", "p", "q", "p realised", "q realised", "largest error", "margin", "margin, drawn twice"]
    page.table(head, rows)


def condition_c(page: Page) -> None:
    page.write("""
## Condition C

A collapsed minimiser of the model below needs every node of a class to see the classes in equal shares. `condition_c_graph` makes
such graphs; those of the block model miss it:
""")
    rows: list[list[object]] = []
    for n in (50, 500):
        regular = condition_c_graph(n, 2, 8, 2, generator(), dim=1)
        ordinary = BlockModel(2 * n, 2, 8 / n, 2 / n).sample(generator(), dim=1)
        rows.append([2 * n, *(condition_c_deviation(graph.edge_index, graph.y) for graph in (regular, ordinary))])
    page.table(["nodes", "largest deviation, regular", "largest deviation, block model"], rows)
    page.write("""
The probability that a graph of the block model satisfies it, two communities of n nodes: exact by enumeration for up to six nodes,
else log10 of an upper bound (`probability_bound` derives it). It vanishes with size at every sparsity, dense and sparse, except for
graphs that are empty or complete:
""")
    rows = []
    for label, p, q in (
        ("dense, p = 0.5, q = 0.25", lambda n: 0.5, lambda n: 0.25),
        ("ln n/n: p = 5 ln n/n, q = ln n/n", lambda n: min(1, 5 * math.log(n) / n), lambda n: math.log(n) / n),
        ("constant degree: p = 8/n, q = 2/n", lambda n: min(1, 8 / n), lambda n: min(1, 2 / n)),
    ):
        exact = [f"{probability_exact(n, 2, p(n), q(n)):.3f}" for n in (2, 3)]
        bounds = [f"{probability_bound(n, 2, p(n), q(n)):.0f}" for n in (10, 50, 100, 500, 750)]
        rows.append([label, *exact, *bounds])
    sizes = [*(f"P, n = {n}" for n in (2, 3)), *(f"log10 bound, n = {n}" for n in (10, 50, 100, 500, 750))]
    page.table(["sparsity", *sizes], rows)
    named = ", ".join(
        f"{name}: {probability_bound(m.community_size, m.communities, m.p, m.q):.0f}" for name, m in SETTINGS.items()
    )
    page.write(f"log10 of the bound for the paper's settings: {named}.")


def unconstrained_features(page: Page) -> None:
    size, times = (10, [50, 100]) if page.quick else (50, [10, 100, 300, 1000, 2000, 3000])
    page.write(
        f"""
## The unconstrained features model (gUFM)

$\\frac1{{2N}} \\|W_1 H + W_2 H \\hat A - Y\\|^2 + \\frac\\lambda2 (\\|W_1\\|^2 + \\|W_2\\|^2 + \\|H\\|^2)$, $\\lambda = 0.005$, on
graphs of {2 * size} nodes (the paper's are of 1000), d = 8, to time {times[-1]} (a step of descent at rate 0.1 lasts 0.1): 10 graphs of
each kind by gradient flow, the first of them also by gradient descent. NC1 is tr Σ_W / tr Σ_B of H.
""".replace("10 graphs", f"{2 if page.quick else 5} graphs")
    )
    curves: dict[str, Points] = {}
    rows = []
    for own in (True, False):
        for kind in ("regular", "block model"):
            values = []
            for seed in range(2 if page.quick else 5):
                graph = (
                    condition_c_graph(size, 2, 6, 2, generator(seed), dim=1)
                    if kind == "regular"
                    else BlockModel(2 * size, 2, 6 / size, 2 / size).sample(generator(seed), dim=1)
                )
                model = Gufm(graph.edge_index, graph.y, own_weight=own)
                start = model.start(8, generator(seed))
                values.append(
                    [
                        measure_features(s.features, graph.y)["nc1_ratio"]
                        for s in fit_gufm(model, start, times, method="flow")
                    ]
                )
                if seed == 0:
                    (end,) = fit_gufm(model, start, times[-1:])
                    descent = measure_features(end.features, graph.y)["nc1_ratio"]
            mean = [10 ** (sum(math.log10(one[i]) for one in values) / len(values)) for i in range(len(times))]
            curves[f"{kind}{'' if own else ', no W1'}"] = list(zip([math.log10(t) for t in times], mean, strict=True))
            ends = [one[-1] for one in values]
            rows.append(["yes" if own else "no", kind, mean[-1], f"{min(ends):.2g} to {max(ends):.2g}", descent])
    page.table(["W1", "graphs", "NC1 at the end, flow", "range", "by descent (first graph)"], rows)
    page.draw("gufm", curves, "NC1 of H over log10 of the time, geometric mean over graphs")
    assert page.quick or all((row[2] < 1e-8) == (row[1] == "regular") for row in rows)


def paper_size(page: Page) -> None:
    graphs, times = (1, (5, 10)) if page.quick else (3, (100, 1000, 5000))
    page.write("""
### At the paper's size

Graphs of c2-n1000 and regular ones of about its degrees (12 neighbours inside, 1 across), by gradient flow to time 5000, where the paper's
50,000 steps at rate 0.1 end. NC1 of H, geometric mean over 3 graphs of each kind:
""")
    setting, rows = SETTINGS["c2-n1000"], []
    n = setting.community_size
    inside, across = round(n * setting.p), round(n * setting.q)
    for own in (True, False):
        for kind in ("regular", "block model"):
            found = []
            for seed in range(graphs):
                drawn = generator(seed)
                regular = kind == "regular"
                graph = (
                    condition_c_graph(n, 2, inside, across, drawn, dim=1) if regular else setting.sample(drawn, dim=1)
                )
                model = Gufm(graph.edge_index, graph.y, own_weight=own)
                states = fit_gufm(model, model.start(8, drawn), times, method="flow")
                found.append([measure_features(state.features, graph.y)["nc1_ratio"] for state in states])
            means = [f"{geometric_mean(values):.2g}" for values in zip(*found, strict=True)]
            rows.append(["yes" if own else "no", kind, *means])
    page.table(["W1", "graphs", *(f"time {time}" for time in times)], rows)
