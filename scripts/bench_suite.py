"""The cost of the whole evaluation against one bare forward pass of the untouched timm model over the same images.

    python scripts/bench_suite.py [--train 8000] [--test 2000] [--model resnet18] [--img-size 64]
    python scripts/bench_suite.py --id SOURCE --ood NAME=SOURCE ...

Every feature detector at every stage and the encoder, the default probes on a transfer task, collapse, and intervals of
500 replicates: once from nothing (cold), once from the feature bank that this left (warm). Beside them, where it is
installed, pytorch-ood: eight detectors at the encoder, its own feature cache, its own metrics, no intervals. The bare
pass is channels-last, network and images, reads and preprocesses the same images, and runs before and after each of
these. Without sources the images are noise around one picture a class, in memory. Prints seconds on the wall and of the
processor, both as ratios of the bare pass, and the parts of ours.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from ood_nc import ControlledModel, evaluate
from ood_nc.data import as_dataset, eval_transform, limit_total, open_dataset
from ood_nc.evaluation import Results

CLASSES = 10


class Seconds(NamedTuple):
    """On the wall, and of the processor: what others do on the machine moves the first alone."""

    wall: float
    processor: float


class Unknown(Dataset[Any]):
    """A data set as pytorch-ood marks OOD: every label is -1."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.dataset[index][0], -1


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

    def bare() -> None:
        with torch.inference_mode():
            for batch, _ in DataLoader(images, batch_size=128):
                plain(batch.contiguous(memory_format=torch.channels_last))

    options = {"detectors": arguments.detectors, "bootstrap": arguments.bootstrap, "device": "cpu"}
    print(f"{arguments.model}, {arguments.img_size} px: {len(images)} images, {len(model.tap_names)} taps")
    with tempfile.TemporaryDirectory() as cache:
        ours = functools.partial(evaluate, model, **sets, **options, cache=cache)
        peer = functools.partial(pytorch_ood, plain, sets, transform)
        before = timed(bare)[0]
        for name, run in (("cold", ours), ("warm", ours), ("pytorch-ood", peer)):
            seconds, result = timed(run)
            after = timed(bare)[0]
            wall, processor = (2 * mine / (a + b) for mine, a, b in zip(seconds, before, after, strict=True))
            if isinstance(result, Results):
                result = ", ".join(f"{part} {value:.1f}" for part, value in result.identity["seconds"].items())
            print(
                f"bare {before.wall:.1f} s, {before.processor:.1f} of the processor, {torch.get_num_threads()} threads"
            )
            print(f"{name}: {wall:.2f} x on the wall, {processor:.2f} x of the processor ({result})")
            before = after


def timed(run: Callable[[], Any]) -> tuple[Seconds, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor), result


def pytorch_ood(plain: Any, sets: dict[str, Any], transform: Any) -> str:
    """Eight detectors at the encoder: three read logits, five features, each kept once a set."""
    try:
        from pytorch_ood import detector as peers
        from pytorch_ood.benchmark import Benchmark
        from pytorch_ood.utils import extract_features
    except ImportError:
        return "not installed"
    known = sets["id"].with_transform(transform)
    outside = [Unknown(dataset.with_transform(transform)) for dataset in sets["ood"].values()]

    class OurSets(Benchmark):
        ood_names = tuple(sets["ood"])

        def train_set(self) -> Any:
            return sets["id_train"].with_transform(transform)

        def test_sets(self, known_too: bool = True, unknown: bool = True) -> list[Any]:
            return [ConcatDataset([known, one]) for one in outside]

    class Encoder(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            batch = batch.contiguous(memory_format=torch.channels_last)
            return plain.forward_head(plain.forward_features(batch), pre_logits=True)

    encoder, head = Encoder(), plain.get_classifier()
    weight, bias = head.weight.detach(), head.bias.detach()
    reads_features = [
        peers.Mahalanobis(encoder),
        peers.RMD(encoder),
        peers.ViM(encoder, d=weight.shape[1] // 2, w=weight, b=bias),
        peers.KNN(encoder),
        peers.SHE(encoder, head),
    ]
    reads_logits = [peers.MaxSoftmax(plain), peers.EnergyBased(plain), peers.MaxLogit(plain)]
    benchmark, loader = OurSets(), {"batch_size": 128}
    features, labels = extract_features(DataLoader(benchmark.train_set(), **loader), encoder, "cpu")
    for one in reads_features:
        one.fit_features(features, labels)
    rows = benchmark.evaluate([*reads_features, *reads_logits], loader_kwargs=loader, cache=True)
    return f"{len(rows) // len(outside)} detectors at one tap"


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
