"""Collapse on graphs: what the theory says, what is measured, and which command draws which published figure.

Running it trains the networks and computes the numbers and pictures of docs/graphs.md: python docs/graphs.py [FOLDER]
Those of the other settings are read from docs/graphs/settings.csv, which scripts/graph_settings.py computes.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graph_page import Page, Points
from graph_theory import block_models, condition_c, paper_size, unconstrained_features
from page_table import show

from ood_nc.config import load
from ood_nc.evaluation import Results
from ood_nc.graphs.evaluation import evaluate_graphs
from ood_nc.graphs.training import train_graphs
from ood_nc.tracking import read_log

CONFIG = Path(__file__).parent.parent / "configs" / "graphs" / "cpu-32-layers.yaml"
QUICK = {
    "graphs.layers": 4,
    "graphs.train_graphs": 6,
    "graphs.test_graphs": 2,
    "train.epochs": 1,
    "graphs.fit_graphs": 2,
}
WHAT = {"": "before", ".aggregated": "after"}


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
