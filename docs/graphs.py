"""Collapse on graphs: what the theory says, what is measured, and which command draws which published figure.

Running it trains the networks and computes the numbers and pictures of docs/graphs.md: python docs/graphs.py [FOLDER]
Those of the other settings are read from docs/graphs/settings.csv, which scripts/graph_settings.py computes.
"""

from __future__ import annotations

import csv
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from ood_nc.config import load
from ood_nc.evaluation import Results
from ood_nc.graphs import (
    SETTINGS,
    BlockModel,
    condition_c_deviation,
    condition_c_graph,
    fit_gufm,
    probability_bound,
    probability_exact,
)
from ood_nc.graphs.evaluation import evaluate_graphs
from ood_nc.graphs.gufm import Gufm
from ood_nc.graphs.measurement import measure_features
from ood_nc.graphs.training import train_graphs
from ood_nc.tracking import read_log

CONFIG = Path(__file__).parent.parent / "configs" / "graphs" / "cpu-32-layers.yaml"
COLORS = ("#3366aa", "#cc5544", "#449966", "#aa8833", "#775599")
QUICK = {
    "graphs.layers": 4,
    "graphs.train_graphs": 6,
    "graphs.test_graphs": 2,
    "train.epochs": 1,
    "graphs.fit_graphs": 2,
}
WHAT = {"": "before", ".aggregated": "after"}
Points = Sequence[tuple[float, float]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def show(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Page:
    """A Markdown page under construction, and the folder of its pictures."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        self.parts.append(text.strip() + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self.write("\n".join("| " + " | ".join(show(cell) for cell in line) + " |" for line in lines))

    def draw(
        self, name: str, lines: Mapping[str, Points], caption: str, *, log: bool = True, dots: bool = False
    ) -> None:
        """Draw lines, or dots, over one pair of axes; the vertical one is logarithmic unless told otherwise."""
        width, height, left = 520, 220, 56
        scale = (lambda y: math.log10(max(y, 1e-16))) if log else float
        xs = [x for points in lines.values() for x, _ in points]
        ys = [scale(y) for points in lines.values() for _, y in points]
        low, high = min(ys), max(ys)

        def place(x: float, y: float) -> tuple[float, float]:
            across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
            up = (scale(y) - low) / ((high - low) or 1)
            return round(left + across * (width - left - 10), 1), round(10 + (1 - up) * (height - 40), 1)

        text = 'font-size="11" font-family="sans-serif" fill="#777"'
        shapes = [
            f'<rect x="{left}" y="10" width="{width - left - 10}" height="{height - 40}" fill="none" stroke="#999"/>'
        ]
        for value, y in ((high, 18), (low, height - 30)):
            shapes.append(f'<text x="2" y="{y}" {text}>{show(10**value if log else value)}</text>')
        for x, anchor in ((min(xs), "start"), (max(xs), "end")):
            at = left if anchor == "start" else width - 10
            shapes.append(f'<text x="{at}" y="{height - 16}" text-anchor="{anchor}" {text}>{show(float(x))}</text>')
        for number, (label, points) in enumerate(lines.items()):
            color, at = COLORS[number % len(COLORS)], [place(*point) for point in points]
            if dots:
                shapes += [f'<circle cx="{x}" cy="{y}" r="1.5" fill="{color}"/>' for x, y in at]
            else:
                joined = " ".join(f"{x},{y}" for x, y in at)
                shapes.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            shapes.append(
                f'<text x="{left + 115 * number}" y="{height - 2}" {text.replace("#777", color)}>{label}</text>'
            )
        (self.folder / "graphs").mkdir(parents=True, exist_ok=True)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        (self.folder / "graphs" / f"{name}.svg").write_text("\n".join([head, *shapes, "</svg>"]) + "\n")
        self.write(f"![{caption}](graphs/{name}.svg)\n\n*{caption}.*")

    def save(self) -> None:
        (self.folder / "graphs.md").write_text("\n".join(self.parts))


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


def train(page: Page, runs: Path, **overrides: Any) -> tuple[Results, Path]:
    name = "-".join(f"{key.rpartition('.')[2]}_{value}" for key, value in overrides.items())
    config = load(CONFIG, {"output": str(runs), "experiment": name, **overrides, **(QUICK if page.quick else {})})
    return evaluate_graphs(train_graphs(config)), config.run_directory


def value(results: Results, tap: str, metric: str) -> dict[str, Any]:
    return results.select(kind="collapse", tap=tap, metric=metric)[0]


def layers_of(results: Results) -> list[str]:
    return [tap["name"] for tap in results.identity["taps"] if "." not in tap["name"] and tap["name"] != "head"]


def networks(page: Page, found: Mapping[str, Results]) -> None:
    first = next(iter(found.values()))
    page.write("""
## Networks of 1 + 32 + 1 layers

`ood-nc run --config configs/graphs/cpu-32-layers.yaml`: 200 nodes in place of 1000 or 1500, two communities with the a and b of
c2-n1500, 4 epochs of 100 graphs in place of 8 of 1000, 20 test graphs in place of 100. Loss: MSE, minimised over permutations of the
labels. Overlap, mean over test graphs ± one standard deviation, beside the spectral methods on the same graphs:
""")
    rows = []
    for name, results in found.items():
        row = results.select(metric="overlap", method="head")[0]
        rows.append([name, f"{row['value']:.3f} ± {row['high'] - row['value']:.3f}"])
    for row in first.select(metric="overlap"):
        if row["method"] != "head":
            nc1 = first.select(kind="collapse", method=row["method"], metric="nc1_ratio")[0]["value"]
            rows.append(
                [
                    f"{row['method']} (NC1 of its vector {nc1:.2g})",
                    f"{row['value']:.3f} ± {row['high'] - row['value']:.3f}",
                ]
            )
    page.table(["", "overlap"], rows)
    page.write(
        "NC1 (tr Σ_W / tr Σ_B) of each layer's input H and of H Â, geometric mean over test graphs and the range of one deviation:"
    )
    names = layers_of(first)
    chosen = sorted({names[0], *names[1 :: max(1, len(names) // 8)], names[-1]})
    head = ["layer", *(f"{run}, {what}" for run in found for what in ("H", "H Â"))]
    rows = []
    for layer in chosen:
        cells = [value(results, layer + kind, "nc1_ratio") for results in found.values() for kind in WHAT]
        rows.append([layer[5:].lstrip("0"), *(f"{c['value']:.2g} ({c['low']:.2g} to {c['high']:.2g})" for c in cells)])
    page.table(head, rows)
    curves = {
        f"{run}, {what}": [
            (number, value(results, layer + kind, "nc1_ratio")["value"]) for number, layer in enumerate(names, 1)
        ]
        for run, results in list(found.items())[-2:]
        for kind, what in WHAT.items()
    }
    page.draw("depth", curves, "NC1 over layers, before and after aggregation")
    for run, results in found.items():
        nc1 = [value(results, layer, "nc1_ratio")["value"] for layer in names]
        page.write(
            f"{run}: from {nc1[0]:.3g} at the node features to a smallest of {min(nc1[1:]):.2g} (layer {1 + nc1.index(min(nc1))}) and "
            f"{nc1[-1]:.2g} before the last layer: it falls with depth, not at every layer, and does not reach collapse."
        )
        assert page.quick or (min(nc1) > 1e-3 and nc1[-1] < 0.05 * nc1[0])


def details(page: Page, found: Mapping[str, Results]) -> None:
    page.write("""
## Weights, terms, frames

Per layer: signal to noise of the two terms apart (NC1 of W1 H and of W2 H Â), Frobenius norms, and the distance of the uncentred
class means from an orthogonal frame; the centred means of two classes always form a simplex ETF.
""")
    for run, results in found.items():
        names = layers_of(results)
        terms = [(".w1", "nc1_ratio"), (".w2", "nc1_ratio"), ("", "norm_w1"), ("", "norm_w2"), ("", "norm"), (".aggregated", "norm"), ("", "nc2_of_means"), (".aggregated", "nc2_of_means")]  # fmt: skip
        if not results.select(tap="layer001", metric="norm_w1"):
            terms = [term for term in terms if term[0] != ".w1" and term[1] != "norm_w1"]
        label = {
            "nc1_ratio": "NC1 of",
            "norm_w1": "norm W1",
            "norm_w2": "norm W2",
            "norm": "norm H",
            "nc2_of_means": "frame",
        }
        ending = {"": "", ".aggregated": " Â", ".w1": " W1 H", ".w2": " W2 H Â"}
        rows = [
            [layer[5:].lstrip("0"), *(f"{value(results, layer + kind, metric)['value']:.2g}" for kind, metric in terms)]
            for layer in sorted({names[0], *names[1 :: max(1, len(names) // 5)], names[-1]})
        ]
        page.table([run, *(label[metric] + ending[kind] for kind, metric in terms)], rows)
        last = names[-1]
        kinds = [("", "W1"), (".aggregated", "W2")] if ("", "norm_w1") in terms else [(".aggregated", "W2")]
        said = [
            f"{weight}: NC2 {value(results, last + kind, 'nc2_etf')['value']:.2g} (ETF), {value(results, last + kind, 'nc2_of')['value']:.2g} (frame), "
            f"NC3 {value(results, last + kind, 'nc3_duality')['value']:.2g} (ETF), {value(results, last + kind, 'nc3_of')['value']:.2g} (frame)"
            for kind, weight in kinds
        ]
        page.write(f"Last layer of {run}. {'; '.join(said)}.")
    page.write("""
## Trace ratios across layers

tr Σ'/tr Σ from a layer's input to its output before the ReLU, against the prediction with the expected graph and its bounds from
spectra alone. For Σ_W the prediction is about the population's class means and the expected graph: a sampled graph adds about
1/degree of the aggregated term back, so no equality is to be expected.
""")
    results = next(iter(found.values()))
    rows, inside = [], {"between": 0, "within": 0}
    names = layers_of(results)
    for layer in names:
        cells: list[object] = [layer[5:].lstrip("0")]
        for part in inside:
            low, high, predicted, measured = (
                value(results, layer, f"{part}_ratio{kind}")["value"] for kind in ("_low", "_high", "_predicted", "")
            )
            inside[part] += low <= measured <= high
            cells += [measured, predicted, f"{low:.2g} to {high:.2g}"]
        rows.append(cells)
    page.table(
        ["layer", *(f"Σ_{p}, {w}" for p in "BW" for w in ("measured", "predicted", "bounds"))],
        rows[:: max(1, len(rows) // 6)],
    )
    page.write(
        f"Measured within the bounds: Σ_B in {inside['between']}, Σ_W in {inside['within']} of {len(names)} layers."
    )


def epochs(page: Page, directory: Path) -> None:
    curve = [line for line in read_log(directory / "metrics.jsonl") if line["split"] == "collapse"]
    page.write(
        "## Over epochs\n\nNC1 of the input of some layers over training (`train.collapse_interval`; every tap is in metrics.jsonl):"
    )
    names = sorted(
        {key.split("/")[1] for key in curve[0] if key.startswith("collapse/") and "." not in key.split("/")[1]}
    )
    chosen = sorted({names[0], *names[1 :: max(1, len(names) // 4)], names[-1]})
    head = ["epoch", *(f"layer {layer[5:].lstrip('0')}" for layer in chosen)]
    page.table(head, [[line["epoch"], *(line[f"collapse/{layer}/nc1_ratio"] for layer in chosen)] for line in curve])


def pictures(page: Page, results: Results) -> None:
    beliefs = [one for one in results.series["beliefs"] if one["output"] == 0]
    page.write("## Beliefs and Fiedler vectors")
    lines = {
        f"community {one['community']}": [
            (edge, float(count)) for edge, count in zip(one["edges"][:-1], one["counts"], strict=True)
        ]
        for one in beliefs
    }
    page.draw(
        "beliefs", lines, "Histogram of the network's first output by true community, over test graphs", log=False
    )
    for name, found in results.series["spectra"].items():
        half = len(found["fiedler"]) // 2
        dots = {
            f"community {c}": [(float(i), found["fiedler"][i]) for i in range(c * half, (c + 1) * half)] for c in (0, 1)
        }
        page.draw(
            f"fiedler-{name}", dots, f"Second eigenvector of the {name.replace('_', ' ')} by node", log=False, dots=True
        )
        page.write(f"Its smallest eigenvalues: {', '.join(show(v) for v in found['values'][:6])}.")


def detection(page: Page, found: Mapping[str, Results]) -> None:
    page.write("""
## OOD nodes

Test graphs with a third community and with a tenth of the nodes joined with p and q exchanged; features [H Â, H] of the last layer, on
which its weights are a linear head. AUROC by node, of the score and of the score propagated over the graph (two steps, alpha 0.5);
intervals are in results.json. A detector without a row says there why (most need features that are not negative).
""")
    results = next(iter(found.values()))
    rows = []
    sets = ("held_out_community", "swapped_block")
    methods = {row["method"] for row in results.select(kind="detection", metric="auroc") if row["value"] is not None}
    for method in sorted(name for name in methods if not name.endswith("_propagated")):
        cells = [
            results.select(kind="detection", metric="auroc", dataset=name, method=method + kind)[0]["value"]
            for name in sets
            for kind in ("", "_propagated")
        ]
        rows.append([method, *(f"{cell:.3f}" for cell in cells)])
    page.table(["detector", "held-out community", "propagated", "swapped block", "propagated"], rows)


def other_settings(page: Page) -> None:
    page.write("""
## Four communities, heterophilic graphs, 64 layers

`scripts/graph_settings.py`: again 200 nodes, with the a and b of the paper's graphs of 1500, and 100 graphs an epoch, 20 test graphs;
1 + 32 + 1 layers where nothing else is said; four communities 16 units wide, 8 epochs at rate 0.006, two as above. Heterophilic
communities are in the most negative eigenvectors of the adjacency, so both operators are taken of -A there (of the Bethe-Hessian
that is r = -√c). Overlap, mean over test graphs ± one standard deviation, of the network and of the spectral methods:
""")
    with open(Path(__file__).parent / "graphs" / "settings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {
        name: [row for row in rows if row["setting"] == name] for name in dict.fromkeys(r["setting"] for r in rows)
    }
    methods = ["head", *(f"{o}@{i}" for o in ("normalized_laplacian", "bethe_hessian") for i in (32, 128))]
    body = []
    for name, own in found.items():
        by_method = {row["of"]: row for row in own if row["metric"] == "overlap"}
        cells = [(float(by_method[m]["value"]), float(by_method[m]["high"])) for m in methods]
        body.append([name, *(f"{mean:.3f} ± {high - mean:.3f}" for mean, high in cells)])
    page.table(["setting", "network", *methods[1:]], body)
    page.write("NC1 (tr Σ_W / tr Σ_B) of the input of some layers, H and H Â, geometric mean over test graphs:")
    curves: dict[str, Points] = {}
    body = []
    for name, own in found.items():
        nc1 = {row["of"]: float(row["value"]) for row in own if row["metric"] == "nc1_ratio"}
        for kind, what in ("", "H"), (".aggregated", "H Â"):
            values = [nc1[tap] for tap in sorted(nc1) if tap == tap.partition(".")[0] + kind]
            quarters = [round(part * (len(values) - 1)) for part in (0, 0.25, 0.5, 0.75, 1)]
            body.append([f"{name}: {what}", *(f"{values[at]:.2g} ({at + 1})" for at in quarters), min(values)])
            if not kind:
                curves[name] = list(enumerate(values, 1))
    page.table(["setting", "first (layer)", "a quarter", "half", "three quarters", "last", "smallest"], body)
    page.draw("settings", curves, "NC1 of H over layers, in the other settings")


def published(page: Page) -> None:
    run = "`ood-nc run --config configs/graphs/paper-c2.yaml`"
    page.write(
        "## What the paper shows, and what draws it\n\nBy content. At the paper's size no network was trained here: hours on a core."
    )
    page.table(
        ["published", "counterpart"],
        [
            [
                "overlap, loss, NC1 to NC3 over epochs, with and without W1, C = 2",
                f"{run}, and `--graphs.own-weight false`: metrics.jsonl, report; here at 200 nodes",
            ],
            [
                "the same for C = 4, N = 1500, heterophilic",
                "`--config configs/graphs/paper-c4.yaml`, `--graphs.setting c4-n1500-heterophilic`; here at 200 nodes",
            ],
            ["gUFM on ordinary and regular graphs", "this page, at 100 and at 1000 nodes"],
            ["NC1 and traces over layers, before and after aggregation", "report.html and this page"],
            ["trace ratios and bounds over layers", "rows `between_ratio*`, `within_ratio*`; this page"],
            [
                "signal to noise of the two terms, Frobenius norms over layers and epochs",
                "taps `.w1`, `.w2`, rows `norm*`; over epochs in metrics.jsonl",
            ],
            ["histograms of beliefs, Fiedler vectors and eigenvalues", "`series` of results.json; this page"],
            [
                "NC1 and overlap over power iterations",
                "rows `normalized_laplacian@32` to `bethe_hessian@128`; three points, no curve",
            ],
            ["64 and 128 layers", "`--graphs.layers 66`: here at 200 nodes; `--graphs.layers 130`: the command alone"],
            [
                "probability of Condition C",
                "`probability_exact`, `probability_bound`; the table above. The paper's own formula is not reproduced",
            ],
            [
                "real graphs (ours)",
                "`--config configs/graphs/cora.yaml --data-dir DATA`: tested on small graphs in Planetoid's and OGB's formats; no numbers on real Cora or OGB",
            ],
        ],
    )


def main(folder: Path, *, quick: bool = False) -> None:
    """Write graphs.md and its pictures into ``folder``; ``quick`` takes sizes that mean nothing."""
    page = Page(folder, quick)
    page.write("""
# Collapse on graphs

After Kothapalli, Tirer and Bruna, A Neural Collapse Perspective on Feature Evolution in Graph Neural Networks (NeurIPS 2023). Needs
PyTorch Geometric: `pip install 'ood_nc[graphs]'`. Written by `python docs/graphs.py`, a few minutes of one core; a test runs it small.
Planetoid's files are pickles, which run what they hold: take them from someone you trust. OGB's are tables (`ogbn_arxiv/raw/*.csv.gz`).
""")
    block_models(page)
    condition_c(page)
    unconstrained_features(page)
    paper_size(page)
    with tempfile.TemporaryDirectory() as runs:
        settings = [
            ("W1, seed 0", {"train.seed": 0}),
            ("W1, seed 1", {"train.seed": 1}),
            ("no W1, seed 0", {"graphs.own_weight": False}),
        ]
        trained = {name: train(page, Path(runs), **overrides) for name, overrides in settings}
        found = {name: results for name, (results, _) in trained.items()}
        networks(page, found)
        epochs(page, trained["W1, seed 0"][1])
        details(page, {name: results for name, results in found.items() if "seed 0" in name})
        pictures(page, found["W1, seed 0"])
        detection(page, found)
    other_settings(page)
    published(page)
    page.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
