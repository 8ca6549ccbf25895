"""Multi-label collapse: the runs behind docs/multilabel.md and their tables.

    python docs/multilabel.py FOLDER --data-dir DATA [--quick]

DATA holds mnist.npz and fashion_mnist.npz. Runs that FOLDER has are not trained again; what was begun goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ood_nc.cli import main as ood_nc
from ood_nc.config import load
from ood_nc.evaluation import Results
from ood_nc.tracking import read_log

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "multilabel" / "mnist-cpu.yaml"
PENALTY = {"name": "feature_norm", "tap": "encoder", "weight": 0.001}
NARROW = {"model.projector.kind": "plastic", "model.projector.dim": 10, "model.projector.depth": 1}
ARMS: dict[str, dict[str, Any]] = {
    "pick-all-label": {},
    "binary cross-entropy": {
        "loss.terms": [{"name": "binary_cross_entropy", "tap": "encoder", "weight": 1.0}, PENALTY]
    },
    "d = K": NARROW,
    "ETF, d = K": {**NARROW, "model.head": "etf"},
    "imbalanced pairs": {"multilabel.counts": {1: [100], 2: [50, 10, 2]}},
}
SEEDS = (0, 1, 2)
QUICK = {"data.limit": 20, "data.eval_limit": 40, "train.epochs": 2, "multilabel.counts": {1: [12], 2: [2]}}
METRICS = {
    "subset_accuracy": "subset accuracy",
    "iou": "IoU",
    "probability_mass": "probability mass",
    "mean_average_precision": "mAP",
}
COLLAPSE = (
    "mlab_nc1_m1",
    "mlab_nc1_m2",
    "nc2_etf_means",
    "nc2_etf",
    "nc3_duality",
    "mlab_angle_m2",
    "mlab_angle_ratio_m2",
)
FIGURES = (
    ("NC1 to NC3 over epochs", "metrics.jsonl, `collapse/encoder/...`; the report's figure of collapse in training"),
    ("the angle of tag-wise averages over epochs", "the same, `mlab_angle_ratio_m2`"),
    (
        "MLab-MNIST, MLab-CIFAR, SVHN",
        "`--data.train mnist.npz::train`, `cifar10::train` with `--multilabel.place shift`, `torchvision/SVHN::train`",
    ),
    ("architectures", "`--model.name resnet18`, `resnet50`, `vgg11_bn`, ..."),
    ("heads and saved parameters", "the arms `d = K` and `ETF, d = K` below"),
    ("imbalance", "the arm `imbalanced pairs` below; rows `mlab_angle_m2_of_N`"),
)


def run(arm: str, seed: int, folder: Path, data: Path, *, quick: bool) -> Path:
    """Train and measure one run, unless that is done."""
    name = f"{arm.replace(' ', '-').replace('=', '').replace(',', '').replace('--', '-').lower()}-seed{seed}"
    directory = folder / name
    if (directory / "results.json").exists():
        return directory
    settings = {**ARMS[arm], "data.root": str(data), "train.seed": seed, **(QUICK if quick else {})}
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(load(CONFIG, settings).to_yaml())
    resume = ["--resume"] if directory.exists() else []
    if ood_nc(["run", "--config", str(path), "--output", str(folder), "--experiment", name, *resume]):
        raise SystemExit(f"{name} failed")
    return directory


def over_seeds(runs: list[Results], scale: float = 1.0, **wanted: Any) -> str:
    """Mean and standard deviation of one row over the seeds."""
    found = [row["value"] for one in runs for row in one.select(**wanted)]
    values = [scale * value for value in found if value is not None]
    if not values:
        return "-"
    return f"{fmean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)])


def page(runs: dict[str, list[Path]]) -> str:
    """The page of these runs."""
    loaded = {arm: [Results.load(directory) for directory in found] for arm, found in runs.items()}
    parts = [(HERE / "multilabel" / "introduction.md").read_text().rstrip(), "## Figures of the paper"]
    parts.append(markdown(["theirs", "here"], [list(row) for row in FIGURES]))
    parts.append(
        "## What came out\n\nComposed MNIST digits, brought to 32 pixels, a plain network of six convolutions, 20 epochs: means over "
        f"{len(SEEDS)} seeds ± standard deviation; held-out images in percent, OOD: Fashion-MNIST."
    )
    rows = []
    for arm, found in loaded.items():
        where = {"kind": "accuracy", "dataset": "id_test", "method": "head"}
        cells = [over_seeds(found, 100, **where, metric=metric) for metric in METRICS]
        ood = {"kind": "detection", "dataset": "mean", "group": "ood", "metric": "fpr95_id_positive", "tap": "encoder"}
        tap = {"tap": found[0].identity["head_tap"]}
        cells.append(over_seeds(found, 100, **{**ood, **tap}, method="joint_energy"))
        cells += [over_seeds(found, 100, **ood, method=method) for method in ("knn", "nearest_by_label")]
        rows.append([arm, found[0].identity["notes"][0].rpartition(": ")[2], *cells])
    head = ["arm", "learnt behind the encoder", *METRICS.values()]
    parts.append(markdown([*head, "FPR95 JointEnergy", "FPR95 k-NN", "FPR95 nearest by label"], rows))
    parts.append("Collapse on the training images at the encoder (NC2 of W and NC3 where the head reads):")
    rows = []
    for arm, found in loaded.items():
        of_head = ("nc2_etf", "nc3_duality")
        cells = [
            over_seeds(
                found,
                kind="collapse",
                dataset="id_train",
                tap=found[0].identity["head_tap"] if metric in of_head else "encoder",
                metric=metric,
            )
            for metric in COLLAPSE
        ]
        rows.append([arm, *cells])
    parts.append(markdown(["arm", *(f"`{name}`" for name in COLLAPSE)], rows))
    rows = []
    for metric in ("mlab_angle_m2_of_50", "mlab_angle_m2_of_10", "mlab_angle_m2_of_2"):
        where = {"kind": "collapse", "dataset": "id_train", "tap": "encoder", "metric": metric}
        rows.append([metric.rpartition("_")[2], over_seeds(loaded["imbalanced pairs"], **where)])
    parts.append("Imbalance: the angle, in degrees, by how many images a pair was given:")
    parts.append(markdown(["images a pair", "angle"], rows))
    parts.append("Over epochs, pick-all-label, seed 0, at the encoder:")
    lines = [line for line in read_log(runs["pick-all-label"][0] / "metrics.jsonl") if line["split"] == "collapse"]
    names = [name for name in COLLAPSE if f"collapse/encoder/{name}" in lines[0]]
    body = [[f"{line['epoch']:g}", *(f"{line[f'collapse/encoder/{name}']:.3g}" for name in names)] for line in lines]
    parts.append(markdown(["epoch", *(f"`{name}`" for name in names)], body))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="tiny runs that only show that it works; writes no page")
    arguments = parser.parse_args()
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    runs: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            runs[arm].append(run(arm, seed, arguments.folder, arguments.data_dir, quick=arguments.quick))
    text = page(runs)
    if not arguments.quick:
        (HERE / "multilabel.md").write_text(text)


if __name__ == "__main__":
    main()
