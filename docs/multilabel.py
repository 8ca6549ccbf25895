"""Multi-label collapse: the runs behind docs/multilabel.md and their tables.

    python docs/multilabel.py FOLDER --data-dir DATA [--parts mnist heads networks cifar] [--quick]

DATA holds mnist.npz, fashion_mnist.npz, and cifar.npz and textures.npz as scripts/claim_data.py makes them. Runs that
FOLDER has are not trained again; what was begun goes on.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ood_nc.cli import main as ood_nc
from ood_nc.config import load
from ood_nc.evaluation import Results
from ood_nc.models import build_model
from ood_nc.tracking import read_log

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs" / "multilabel"
PENALTY = {"name": "feature_norm", "tap": "encoder", "weight": 0.001}
NARROW = {"model.projector.kind": "plastic", "model.projector.dim": 10, "model.projector.depth": 1}
BCE = {"loss.terms": [{"name": "binary_cross_entropy", "tap": "encoder", "weight": 1.0}, PENALTY]}
ARMS: dict[str, dict[str, Any]] = {
    "pick-all-label": {},
    "binary cross-entropy": BCE,
    "d = K": NARROW,
    "ETF, d = K": {**NARROW, "model.head": "etf"},
    "imbalanced pairs": {"multilabel.counts": {1: [100], 2: [50, 10, 2]}},
}
CIFAR: dict[str, dict[str, Any]] = {"CIFAR pick-all-label": {}, "CIFAR binary cross-entropy": BCE}
NARROWED = {  # the last layer has K channels: the encoder itself is of K dimensions
    "convnet6": {"layers": [[32, 2], [32, 1], [64, 2], [64, 1], [128, 2], [10, 1]]},
    "test_resnet": {"channels": [32, 48, 48, 10]},
    "test_convnext": {"dims": [24, 32, 48, 10]},
}
HEADS = {"trained, d": "linear", "trained, d = K": "linear", "ETF and bias, d = K": "etf_bias"}
NETWORKS: dict[str, dict[str, Any]] = {
    f"{name}: {head}": {"model.name": name, "model.head": kind, **({"model.kwargs": narrow} if "= K" in head else {})}
    for name, narrow in NARROWED.items()
    for head, kind in HEADS.items()
    if (name, head) != ("convnet6", "trained, d")  # that is pick-all-label above
}
PARTS = {
    "mnist": (ARMS, (0, 1, 2)),
    "heads": ({arm: settings for arm, settings in NETWORKS.items() if arm.startswith("convnet6")}, (0,)),
    "networks": ({arm: settings for arm, settings in NETWORKS.items() if not arm.startswith("convnet6")}, (0,)),
    "cifar": (CIFAR, (0, 1, 2)),
}
QUICK = {
    "data.limit": 20,
    "data.eval_limit": 40,
    "train.epochs": 2,
    "train.collapse_interval": 1,
    "multilabel.counts": {1: [12], 2: [2]},
}
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
        "`configs/multilabel/mnist-cpu.yaml`, `cifar-cpu.yaml`, `svhn.yaml`",
    ),
    ("architectures", "`--model.name resnet18`, `resnet50`, `vgg11_bn`, ..."),
    (
        "heads and saved parameters over architectures",
        "`python docs/multilabel.py FOLDER --data-dir DATA --parts mnist heads networks`; `--model.head etf_bias`",
    ),
    ("imbalance", "the arm `imbalanced pairs` below; rows `mlab_angle_m2_of_N`"),
)


def run(arm: str, settings: dict[str, Any], seed: int, folder: Path, data: Path, *, quick: bool) -> Path:
    """Train and measure one run, unless that is done."""
    name = f"{re.sub('[^a-z0-9_]+', '-', arm.lower())}-seed{seed}"
    directory = folder / name
    if (directory / "results.json").exists():
        return directory
    config = CONFIGS / ("cifar-cpu.yaml" if arm in CIFAR else "mnist-cpu.yaml")
    settings = {**settings, "data.root": str(data), "train.seed": seed, **(QUICK if quick else {})}
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(load(config, settings).to_yaml())
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


def accuracy_table(loaded: dict[str, list[Results]]) -> str:
    """Accuracy and OOD detection of some arms."""
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
    return markdown([*head, "FPR95 JointEnergy", "FPR95 k-NN", "FPR95 nearest by label"], rows)


def collapse_table(loaded: dict[str, list[Results]]) -> str:
    """Collapse of the training images of some arms."""
    rows = []
    for arm, found in loaded.items():
        head_tap = found[0].identity["head_tap"]
        taps = {metric: head_tap if metric in ("nc2_etf", "nc3_duality") else "encoder" for metric in COLLAPSE}
        where = {"kind": "collapse", "dataset": "id_train"}
        rows.append([arm, *(over_seeds(found, **where, tap=tap, metric=metric) for metric, tap in taps.items())])
    return markdown(["arm", *(f"`{name}`" for name in COLLAPSE)], rows)


def saved_table(runs: dict[str, list[Path]]) -> str:
    """What each network learns, and what a fixed head of K dimensions saves of it."""
    rows, whole = [], 0
    for arm, directories in runs.items():
        name, _, head = arm.partition(": ")
        model = build_model(load(directories[0] / "config.yaml").model, 10)
        learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        whole = learnt if head == "trained, d" else whole
        saved = f"{100 * (1 - learnt / whole):.0f} %"
        found = [Results.load(directory) for directory in directories]
        where = {"kind": "accuracy", "dataset": "id_test", "method": "head"}
        cells = [over_seeds(found, 100, **where, metric=metric) for metric in METRICS]
        angle = {"kind": "collapse", "dataset": "id_train", "tap": "encoder", "metric": "mlab_angle_ratio_m2"}
        rows.append([name, head, str(model.encoder_dim), f"{learnt:,}", saved, *cells, over_seeds(found, **angle)])
    head_row = ["network", "head", "d", "learnt in all", "saved", *METRICS.values(), "`mlab_angle_ratio_m2`"]
    return markdown(head_row, rows)


def imbalance_table(found: list[Results]) -> str:
    """The angle by how many images a pair was given."""
    rows = []
    for number in ("50", "10", "2"):
        where = {"kind": "collapse", "dataset": "id_train", "tap": "encoder", "metric": f"mlab_angle_m2_of_{number}"}
        rows.append([number, over_seeds(found, **where)])
    return markdown(["images a pair", "angle"], rows)


def course_table(directory: Path) -> str:
    """Collapse over the epochs of one run."""
    lines = [line for line in read_log(directory / "metrics.jsonl") if line["split"] == "collapse"]
    names = [name for name in COLLAPSE if f"collapse/encoder/{name}" in lines[0]]
    body = [[f"{line['epoch']:g}", *(f"{line[f'collapse/encoder/{name}']:.3g}" for name in names)] for line in lines]
    return markdown(["epoch", *(f"`{name}`" for name in names)], body)


def sections(part: str, runs: dict[str, list[Path]]) -> list[str]:
    """What the page says of one part."""
    if part == "heads":
        return [
            "### Saved parameters\n\nMLab-MNIST, pick-all-label, seed 0. With d = K the last layer itself has K channels, so that not "
            "only the head is spared; the fixed simplex ETF keeps a trained bias, as theirs does.",
            saved_table(
                {"convnet6: trained, d": runs["pick-all-label"][:1], **{arm: runs[arm] for arm in PARTS[part][0]}}
            ),
        ]
    if part == "networks":
        return ["The same of other networks:", saved_table({arm: runs[arm] for arm in PARTS[part][0]})]
    arms, seeds = PARTS[part]
    loaded = {arm: [Results.load(directory) for directory in runs[arm]] for arm in arms}
    first = next(iter(arms))
    told = {
        "mnist": "### MLab-MNIST\n\nOOD: Fashion-MNIST.",
        "cifar": "### MLab-CIFAR\n\n100 images a class and 10 a pair from the CIFAR archive, half the channels; OOD: textures.",
    }
    over = f"Means over {len(seeds)} seeds ± standard deviation" if len(seeds) > 1 else "One seed"
    found = [
        f"{told[part]} {over}; held-out images in percent.",
        accuracy_table(loaded),
        "Collapse on the training images at the encoder (NC2 of W and NC3 where the head reads):",
        collapse_table(loaded),
    ]
    if part == "mnist":
        found.append("Imbalance: the angle, in degrees, by how many images a pair was given:")
        found.append(imbalance_table(loaded["imbalanced pairs"]))
    return [*found, "Over epochs, pick-all-label, seed 0, at the encoder:", course_table(runs[first][0])]


def page(parts: list[str], runs: dict[str, list[Path]]) -> str:
    """The page of these runs."""
    written = [
        (HERE / "multilabel" / "introduction.md").read_text().rstrip(),
        "## Figures of the paper",
        markdown(["theirs", "here"], [list(row) for row in FIGURES]),
        "## What came out\n\nA plain network of six convolutions, images brought to 32 pixels, 20 epochs.",
    ]
    return "\n\n".join([*written, *(one for part in parts for one in sections(part, runs))]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="what is run and written")
    parser.add_argument("--quick", action="store_true", help="tiny runs that only show that it works; writes no page")
    arguments = parser.parse_args()
    if "heads" in arguments.parts and "mnist" not in arguments.parts:
        parser.error("heads are compared with a run of mnist: name both")
    runs: dict[str, list[Path]] = {}
    parts = [part for part in PARTS if part in arguments.parts]
    for arms, seeds in (PARTS[part] for part in parts):
        for seed in seeds[:1] if arguments.quick else seeds:
            for arm, settings in arms.items():
                found = run(arm, settings, seed, arguments.folder, arguments.data_dir, quick=arguments.quick)
                runs.setdefault(arm, []).append(found)
    text = page(parts, runs)
    if not arguments.quick:
        (HERE / "multilabel.md").write_text(text)


if __name__ == "__main__":
    main()
