"""What training loaders cost, side by side: this package's, with and without a cache, and that of timm's train script.

Usage: python scripts/benchmark_loader.py FOLDER [--model resnet18] [--img-size 64] [--batches 12] [--rounds 5]
FOLDER has one folder a class. All loaders run in this process (no workers) and are told in microseconds of processor
time an image, which is also what a loading process needs: the least of the rounds, which alternate. Then the same with
a training step on each batch, beside the bare step on one synthetic batch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2

from ood_nc.config import AugmentConfig
from ood_nc.data import open_dataset, train_transform
from ood_nc.data.cache import cached
from ood_nc.training.loading import train_loader

AUGMENT = AugmentConfig()
Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]


def ours(folder: str, preprocessing: dict, batch: int, cache: str | None) -> Batches:
    dataset = open_dataset(folder)
    transform = train_transform(preprocessing, AUGMENT, by_batch=True)
    kept = dataset if cache is None else cached(dataset, cache)
    loader = train_loader(kept.with_transform(transform), batch_size=batch)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, targets, _ in loader:
            yield transform.normalize(images), targets

    return batches


def timms(folder: str, preprocessing: dict, batch: int) -> Batches:
    """As timm's train.py makes it, with the same crops and flips."""
    return lambda: create_loader(
        create_dataset("", root=folder, split="train", is_training=True),
        **{key: preprocessing[key] for key in ("input_size", "mean", "std", "interpolation")},
        batch_size=batch, is_training=True, use_prefetcher=True, hflip=AUGMENT.hflip, scale=AUGMENT.scale,
        ratio=AUGMENT.ratio, color_jitter=None, num_workers=0, persistent_workers=False, device=torch.device("cpu"),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=12, help="of a round of loading")
    parser.add_argument("--step-batches", type=int, default=2, help="of a round of steps")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = timm.create_model(arguments.model, num_classes=open_dataset(arguments.folder).num_classes)
    size = (3, arguments.img_size, arguments.img_size)
    preprocessing = {**timm.data.resolve_model_data_config(model), "input_size": size, "interpolation": "bicubic"}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        criterion(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    synthetic = torch.randn(arguments.batch, *size), torch.zeros(arguments.batch, dtype=torch.long)
    with tempfile.TemporaryDirectory() as folder:
        loaders = {
            "timm": timms(arguments.folder, preprocessing, arguments.batch),
            "ours": ours(arguments.folder, preprocessing, arguments.batch, None),
            "ours, in memory": ours(arguments.folder, preprocessing, arguments.batch, "memory"),
            "ours, in a file": ours(arguments.folder, preprocessing, arguments.batch, folder),
        }
        print("loading alone:")
        _report(_least(loaders, lambda *_: None, arguments.rounds, arguments.batches, arguments.batch), "timm")
        with_steps = {**loaders, "synthetic": lambda: [synthetic] * arguments.step_batches}
        print(f"with a step of {arguments.model} at {arguments.img_size} px:")
        _report(_least(with_steps, step, arguments.rounds, arguments.step_batches, arguments.batch), "synthetic")


def _least(loaders: dict[str, Batches], use: Callable, rounds: int, count: int, batch: int) -> dict[str, float]:
    """Microseconds an image of the best round. The first batch of a pass, which orders the epoch, is not counted."""
    best = dict.fromkeys(loaders, float("inf"))
    for _ in range(rounds):
        for name, loader in loaders.items():
            batches = iter(loader())
            if name != "synthetic":
                next(batches)
            start = time.process_time()
            for images, targets in islice(batches, count):
                use(images, targets)
            best[name] = min(best[name], (time.process_time() - start) / (count * batch) * 1e6)
    return best


def _report(microseconds: dict[str, float], reference: str) -> None:
    for name, value in microseconds.items():
        print(f"  {name:16} {value:9.1f} us an image, {value / microseconds[reference]:.3f} of {reference}")


if __name__ == "__main__":
    main()
