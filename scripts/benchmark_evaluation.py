"""The cost of the whole evaluation against one bare forward pass of the untouched timm model over the same images.

Usage: python scripts/benchmark_evaluation.py --id SOURCE --ood NAME=SOURCE ... [--model NAME] [--img-size N]
Both read and preprocess the same images alike; the bare pass runs before and after. Prints seconds and the ratio.
"""

from __future__ import annotations

import argparse
import time

import timm
import torch
from torch.utils.data import ConcatDataset, DataLoader

from ood_nc import ControlledModel, evaluate
from ood_nc.data import eval_transform, limit_total, open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--id", required=True)
    parser.add_argument("--ood", nargs="+", required=True, metavar="NAME=SOURCE")
    parser.add_argument("--limit", type=int, default=4000, help="at most so many images of a set")
    arguments = parser.parse_args()
    id_train, id_test = (
        limit_total(open_dataset(f"{arguments.id}::{split}"), arguments.limit) for split in ("@train", "@test")
    )
    ood = {}
    for pair in arguments.ood:
        name, _, source = pair.partition("=")
        ood[name] = limit_total(open_dataset(source), arguments.limit)
    classes = id_train.num_classes
    model = ControlledModel(
        arguments.model, classes, projector=None, taps=("stages", "encoder"), img_size=arguments.img_size
    )
    plain = timm.create_model(arguments.model, num_classes=classes).eval()
    transform = eval_transform(model.preprocessing)
    images = ConcatDataset([dataset.with_transform(transform) for dataset in (id_train, id_test, *ood.values())])

    def bare() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for batch, _ in DataLoader(images, batch_size=128):
                plain(batch)
        return time.perf_counter() - start

    first = bare()
    start = time.perf_counter()
    results = evaluate(model, id=id_test, id_train=id_train, ood=ood, device="cpu")
    whole = time.perf_counter() - start
    last = bare()
    parts = {name: round(seconds, 1) for name, seconds in results.identity["seconds"].items()}
    print(
        f"{arguments.model} at {arguments.img_size} px: {len(images)} images, {len(model.tap_names)} taps, "
        f"{len(ood)} OOD sets"
    )
    print(f"bare pass {first:.1f} s and {last:.1f} s, evaluation {whole:.1f} s, ratio {2 * whole / (first + last):.2f}")
    print(f"of which {parts}")


if __name__ == "__main__":
    main()
