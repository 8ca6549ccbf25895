"""Intermediate collapse: the runs behind docs/intermediate.md, their tables and pictures.

    python docs/intermediate.py FOLDER --data-dir DATA [--quick]

DATA holds mnist.npz and fashion_mnist.npz. Runs that FOLDER has are not trained again; what was begun goes on.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from ood_nc.cli import main as ood_nc
from ood_nc.config import load
from ood_nc.evaluation import Results
from ood_nc.report.documents import read_runs
from ood_nc.report.figures import build, write_figures

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs" / "intermediate"
RUNS = {
    "mlp-mnist": ("mlp-cpu", "mnist.npz"),
    "mlp-fashion": ("mlp-cpu", "fashion_mnist.npz"),
    "convnet-fashion": ("convnet-cpu", "fashion_mnist.npz"),
    "mlp-mnist-mse": ("mlp-mse-cpu", "mnist.npz"),
}
QUICK = {
    "data.limit": 20,
    "data.eval_limit": 60,
    "train.epochs": 2,
    "intermediate.epochs": [1],
    "evaluation.bootstrap": 0,
}
COLUMNS = {
    "within_share": "within-class share",
    "cdnv": "CDNV",
    "ncc_accuracy": "NCC accuracy, train",
    "ncc_accuracy test": "test",
    "ncc_agreement": "NCC agrees",
    "pabs": "PABS",
    "accuracy_rank_c": "accuracy at rank C",
    "accuracy_rank_c_onward": "from here on",
}
FIGURES = (
    ("within- and between-class variance by layer", "`ood-nc figures RUN`: figure 8, within-class share"),
    ("CDNV by layer", "figure 8, CDNV"),
    ("NCC accuracy on train and test by layer", "figure 8, nearest-class-mean accuracy"),
    ("NCC agreement with the network", "figure 8, nearest class mean agrees"),
    ("class means' angles by layer", "figure 8, NC2 (angles)"),
    ("PABS by layer", "figure 8, PABS"),
    ("each of these over epochs", "figure 9, heat maps of layer and epoch"),
    (
        "other architectures",
        "`configs/intermediate/vgg13-cifar10.yaml`, `resnet18-cifar10.yaml`, `vit-cifar10.yaml`; `ood-nc figures RUN RUN ...` "
        "has a panel for each data set and architecture",
    ),
    ("cross-entropy in place of MSE", "`--loss cross_entropy`"),
    ("CIFAR-10, SVHN", "`--data.train torchvision/CIFAR10::train`, `torchvision/SVHN::train`"),
)

PICTURE = """The paper's claim, that class means and weights align (PABS is high) where between-class variance dominates: in the three
cross-entropy runs PABS is higher there on average, but most of that is the head's (.81 to .89); in the layers before
it, PABS hardly depends on which of the two dominates. Where between never dominates (the MSE run) the head is aligned too (.66). So the claim
is seen at the top and not layer by layer, at this size.
"""


def run(name: str, folder: Path, data: Path, *, quick: bool) -> Path:
    """Train and measure one run, unless that is done."""
    config, file = RUNS[name]
    directory = folder / name
    if (directory / "results.json").exists():
        return directory
    settings: dict[str, Any] = {"data.root": str(data), "data.train": f"{file}::train", "data.test": f"{file}::test"}
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(load(CONFIGS / f"{config}.yaml", {**settings, **(QUICK if quick else {})}).to_yaml())
    resume = ["--resume"] if directory.exists() else []
    if ood_nc(["run", "--config", str(path), "--output", str(folder), "--experiment", name, *resume]):
        raise SystemExit(f"{name} failed")
    return directory


def table(results: Results) -> list[str]:
    """Every layer's input, a row each."""
    rows = results.select(kind="layer")
    layers = sorted({(row["depth"], row["tap"]) for row in rows if row["depth"] is not None})
    value = {(row["tap"], row["metric"], row["dataset"]): row["value"] for row in rows}
    lines = ["| layer | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for depth, tap in layers:
        cells = []
        for column in COLUMNS:
            metric, _, test = column.partition(" ")
            found = value.get((tap, metric, "id_test" if test or metric.startswith("accuracy") else "id_train"))
            percent = metric not in ("cdnv", "pabs", "within_share")
            cells.append("-" if found is None else f"{100 * found:.1f}" if percent else f"{found:.3g}")
        lines.append(f"| {depth} `{tap.removeprefix('backbone.')}` | " + " | ".join(cells) + " |")
    return lines


def findings(name: str, results: Results) -> str:
    """What the numbers of one run say, computed."""
    rows = results.select(kind="layer")
    by_metric: dict[str, list[float]] = {}
    for metric in ("within_share", "pabs"):
        found = sorted(
            (row["depth"], row["value"]) for row in rows if row["metric"] == metric and row["value"] is not None
        )
        by_metric[metric] = [value for _, value in found]
    share, pabs = by_metric["within_share"], by_metric["pabs"]
    falls = sum(after < before for before, after in itertools.pairwise(share))
    dominated = [p for s, p in zip(share, pabs, strict=False) if s < 0.5]
    others = [p for s, p in zip(share, pabs, strict=False) if s >= 0.5]
    (depth,) = results.select(kind="layer", metric="effective_depth")
    (accuracy,) = results.select(kind="accuracy", method="head", metric="accuracy", dataset="id_test")
    text = (
        f"**{name}**: test accuracy {100 * accuracy['value']:.1f} %. The within-class share falls at {falls} of "
        f"{len(share) - 1} layers, from {share[0]:.2f} to {share[-1]:.2f}. "
    )
    if dominated and others:
        text += (
            f"PABS is {sum(dominated) / len(dominated):.2f} on average where between-class variance dominates "
            f"({len(dominated)} layers) and {sum(others) / len(others):.2f} elsewhere ({len(others)}). "
        )
    else:
        text += f"Between-class variance dominates at {len(dominated)} of {len(share)} layers. "
    deep = "at no layer" if depth["value"] is None else f"from layer {depth['value']:.0f} on"
    return text + f"Nearest class means are right on 99 % of the training images {deep}."


def page(folder: Path, directories: dict[str, Path]) -> str:
    """The page, and its pictures beside it."""
    parts = [(HERE / "intermediate" / "introduction.md").read_text().rstrip(), "## Figures of the paper\n"]
    parts.append("| theirs | here |\n|---|---|\n" + "\n".join(f"| {theirs} | {ours} |" for theirs, ours in FIGURES))
    parts.append("## What came out\n")
    loaded = {name: Results.load(directory) for name, directory in directories.items()}
    parts.append("\n\n".join(findings(name, results) for name, results in loaded.items()))
    parts.append(PICTURE)
    for name, directory in directories.items():
        figures = [one for one in build(read_runs([directory])) if one.name in ("layers", "courses")]
        for path in write_figures(figures, folder / "figures" / name):
            if path.suffix == ".svg" and "courses" in path.stem:
                target = HERE / "intermediate" / f"{name}.svg"
                target.write_text(path.read_text())
        parts += [f"### {name}\n", "\n".join(table(loaded[name])), f"![layer by epoch](intermediate/{name}.svg)"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="tiny runs that only show that it works; writes no page")
    arguments = parser.parse_args()
    directories = {name: run(name, arguments.folder, arguments.data_dir, quick=arguments.quick) for name in RUNS}
    if not arguments.quick:
        (HERE / "intermediate.md").write_text(page(arguments.folder, directories))


if __name__ == "__main__":
    main()
