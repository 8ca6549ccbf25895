"""The cost of the whole evaluation against one bare forward pass of the untouched timm model over the same images.

    python scripts/bench_suite.py [--train 8000] [--test 2000] [--model resnet18] [--img-size 64]
    python scripts/bench_suite.py --id SOURCE --ood NAME=SOURCE ...

Every feature detector at every stage and the encoder, the default probes on a transfer task, collapse, and intervals of
500 replicates: once from nothing (cold), once from the feature bank that this left (warm). The bare pass is
channels-last, network and images, reads and preprocesses the same images, and runs before and after. Without sources
the images are noise around one picture a class, in memory. Prints seconds, ratios and the parts of both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import timm
import torch
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from ood_nc import ControlledModel, evaluate
from ood_nc.data import as_dataset, eval_transform, limit_total, open_dataset

CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--train", type=int, default=8000, help="ID training images, at most")
    parser.add_argument("--test", type=int, default=2000, help="images of every other set, at most")
    parser.add_argument("--detectors", nargs="+", default=["*"], metavar="GLOB")
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--id", help="source; with @train and @test parts")
    parser.add_argument("--ood", nargs="+", default=[], metavar="NAME=SOURCE")
    arguments = parser.parse_args()
    sets = sources(arguments) if arguments.id else noise(arguments)
    classes = sets["id_train"].num_classes
    model = ControlledModel(
        arguments.model, classes, projector=None, taps=("stages", "encoder"), img_size=arguments.img_size
    )
    plain = timm.create_model(arguments.model, num_classes=classes).eval().to(memory_format=torch.channels_last)
    transform = eval_transform(model.preprocessing)
    parts = [sets["id_train"], sets["id"], *sets["ood"].values(), *sets["transfer"].get("task", ())]
    images = ConcatDataset([dataset.with_transform(transform) for dataset in parts])

    def bare() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for batch, _ in DataLoader(images, batch_size=128):
                plain(batch.contiguous(memory_format=torch.channels_last))
        return time.perf_counter() - start

    options = {"detectors": arguments.detectors, "bootstrap": arguments.bootstrap, "device": "cpu"}
    with tempfile.TemporaryDirectory() as cache:
        first = bare()
        found = [evaluate(model, **sets, **options, cache=cache).identity["seconds"] for _ in ("cold", "warm")]
        last = bare()
    print(f"{arguments.model}, {arguments.img_size} px: {len(images)} images, {len(model.tap_names)} taps")
    print(f"bare channels-last pass {first:.1f} s and {last:.1f} s, {torch.get_num_threads()} threads")
    for name, seconds in zip(("cold", "warm"), found, strict=True):
        shown = ", ".join(f"{part} {value:.1f}" for part, value in seconds.items())
        print(f"{name}: {2 * seconds['total'] / (first + last):.2f} x the bare pass ({shown})")


def noise(arguments: argparse.Namespace) -> dict[str, Any]:
    """8-bit images around one random picture a class; those of OOD sets and of the transfer task have others."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, arguments.img_size, arguments.img_size)

    def draw(count: int, pictures: torch.Tensor) -> Any:
        labels = torch.arange(count) % len(pictures)
        images = pictures[labels] + 40 * torch.randn(count, *shape, generator=generator)
        return as_dataset(TensorDataset(images.clamp_(0, 255).byte(), labels))

    known, *others = (255 * torch.rand(CLASSES, *shape, generator=generator) for _ in range(4))
    return {
        "id_train": draw(arguments.train, known),
        "id": draw(arguments.test, known),
        "ood": {name: draw(arguments.test, pictures) for name, pictures in zip(("a", "b"), others, strict=False)},
        "transfer": {"task": (draw(arguments.test, others[2]), draw(arguments.test, others[2]))},
    }


def sources(arguments: argparse.Namespace) -> dict[str, Any]:
    pairs = [pair.partition("=")[::2] for pair in arguments.ood]
    return {
        "id_train": limit_total(open_dataset(f"{arguments.id}::@train"), arguments.train),
        "id": limit_total(open_dataset(f"{arguments.id}::@test"), arguments.test),
        "ood": {name: limit_total(open_dataset(source), arguments.test) for name, source in pairs},
        "transfer": {},
    }


if __name__ == "__main__":
    main()
