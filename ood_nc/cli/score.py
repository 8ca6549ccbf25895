"""``ood-nc score``: judge new images with a fitted detector, streaming; ``ood-nc export``: the same as one graph."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from ood_nc.cli.command import Command
from ood_nc.cli.pixels import add_pixel_arguments, judged_pixels
from ood_nc.cli.show import say
from ood_nc.errors import UserError
from ood_nc.files import write_lock
from ood_nc.spreadsheets import as_row


def _add_score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a detector that ood-nc fit wrote")
    parser.add_argument(
        "images", metavar="IMAGES", nargs="+", help="images, folders, archives, lists of paths, data sources"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="scores.parquet or scores.csv [the terminal]")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    parser.add_argument(
        "--fdr", metavar="LEVEL", type=float, help="also call images OOD at this false discovery rate over all of them"
    )
    parser.add_argument("-b", "--batch-size", type=int, default=64, help="images a forward pass [64]")
    parser.add_argument("-j", "--workers", type=int, default=0, help="processes that load images [0]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    add_pixel_arguments(parser)
    _add_backbone(parser)


def _add_backbone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbone", metavar="RUN", type=Path, help="run or weights of the network, where FILE holds none"
    )


def _score(arguments: argparse.Namespace) -> int:
    if arguments.batch_size < 1 or arguments.workers < 0:
        raise UserError("--batch-size must be at least 1 and --workers at least 0.")
    from ood_nc.deployment import Detector, score_images
    from ood_nc.devices import choose_device

    detector = Detector.load(arguments.file, backbone=arguments.backbone).to(choose_device(arguments.device))
    detector.transform.pixels = judged_pixels(arguments, detector.transform.pixels)
    summary = score_images(
        detector,
        arguments.images,
        arguments.output,
        fdr=arguments.fdr,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        on_table=_Lines() if arguments.output is None else None,
    )
    if arguments.output is None:
        return 0
    resumed = f" ({summary.resumed} of them before)" if summary.resumed else ""
    say(f"scored {summary.images} images{resumed} in {summary.seconds:.1f} s: {arguments.output}")
    judged = summary.images - summary.broken
    say(f"accepted as in-distribution: {summary.accepted} of {judged} ({summary.accepted / max(judged, 1):.1%})")
    if summary.discoveries is not None:
        say(f"called out-of-distribution at a false discovery rate of {arguments.fdr}: {summary.discoveries}")
    if summary.broken:
        say(f"not readable: {summary.broken} (the reason stands in their rows)")
    return 0


class _Lines:
    """Rows as CSV on standard output, the header once."""

    def __init__(self) -> None:
        self.writer = csv.writer(sys.stdout)
        self.started = False

    def __call__(self, table: Any) -> None:
        if not self.started:
            self.writer.writerow(table.column_names)
            self.started = True
        self.writer.writerows(map(as_row, zip(*(column.to_pylist() for column in table.columns), strict=True)))
        sys.stdout.flush()


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a detector that ood-nc fit wrote")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="model.onnx or model.pt2")
    _add_backbone(parser)


def _export(arguments: argparse.Namespace) -> int:
    suffix = arguments.output.suffix.lower()
    if suffix not in (".onnx", ".pt2"):
        raise UserError(f"The output {arguments.output} must end in .onnx or .pt2.")
    from ood_nc.deployment import Detector, export_onnx, export_program

    detector = Detector.load(arguments.file, backbone=arguments.backbone)
    with write_lock(arguments.output):
        (export_onnx if suffix == ".onnx" else export_program)(detector, arguments.output)
    channels, height, width = detector.model.preprocessing["input_size"]
    say(f"graph: {arguments.output}; images (B, {channels}, {height}, {width}), float32, RGB in [0, 1]")
    say("outputs: logits, score (larger = more in-distribution), p_value, accepted")
    return 0


SCORE = Command(
    name="score",
    summary="Score new images with a fitted detector: score, p-value, accepted or not, predicted class.",
    examples="""  ood-nc score knn.safetensors photo.jpg
  ood-nc score knn.safetensors /data/incoming archive.tar list.txt -o scores.parquet -j 4
  ood-nc score knn.safetensors /data/incoming -o scores.csv --fdr 0.1
  ood-nc score knn.safetensors /data/scanner -o scores.csv --value-range 0,4095

The images are read one after another at constant memory. An interrupted call goes on when it is given again.""",
    add_arguments=_add_score_arguments,
    execute=_score,
)
EXPORT = Command(
    name="export",
    summary="Write a fitted detector as one ONNX or torch.export graph, from image to logits, score and p-value.",
    examples="""  ood-nc export energy.safetensors -o energy.onnx
  ood-nc export mahalanobis.safetensors -o mahalanobis.pt2""",
    add_arguments=_add_export_arguments,
    execute=_export,
)
