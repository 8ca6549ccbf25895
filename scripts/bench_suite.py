"""The cost of the whole evaluation against one bare forward pass of the untouched timm model over the same images.

    python scripts/bench_suite.py [--train 1800] [--test 450] [--model resnet18] [--img-size 64] [--markdown FILE]
    python scripts/bench_suite.py --id SOURCE --ood NAME=SOURCE ...

Detectors of the literature's tables (`DETECTORS`, or those that are named) at every stage and the encoder, the default
probes on a transfer task, collapse, and intervals of 500 replicates: from nothing (cold), then from the feature bank
that this left (warm), a few times; then both with every feature detector there is. Beside them fifteen detectors in
plain PyTorch and, where it is installed, pytorch-ood with its feature cache (`bench_peers`). The bare pass is
channels-last, network and images, reads and preprocesses the same images, and runs before and after each of these;
one of the contiguous network stands beside it. Without sources the images are noise around one picture a class, in
memory.
Then parts of the evaluation over what they cannot avoid (`bench_ratios`). Prints seconds on the wall and of the
processor, both as ratios of the bare pass, and the parts of ours. What fails is told in its row, and the rest goes on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bench_peers
import timm
import torch
from bench_ratios import ratios
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from ood_nc import ControlledModel, evaluate
from ood_nc.data import as_dataset, eval_transform, limit_total, open_dataset
from ood_nc.evaluation import Results

CLASSES = 10
DETECTORS = [
    "msp",
    "max_logit",
    "energy",
    "entropy",
    "gen",
    "openmax",
    "react",
    "ash_s",
    "scale",
    "dice",
    "gradnorm",
    "vim",
    "residual",
    "neco",
    "nnguide",
    "she",
    "fdbd",
    "mahalanobis",
    "relative_mahalanobis",
    "knn",
    "max_cosine",
    "nci",
]


class Seconds(NamedTuple):
    """On the wall, and of the processor: what others do on the machine moves the first alone."""

    wall: float
    processor: float


class Run(NamedTuple):
    """What one run took, over the mean of the bare passes before and after it, and what it gave."""

    ratio: Seconds
    seconds: Seconds
    result: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--train", type=int, default=1800, help="ID training images, at most")
    parser.add_argument("--test", type=int, default=450, help="images of every other set, at most")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, metavar="GLOB")
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each evaluation; the middle one is shown")
    parser.add_argument("--id", help="source; with @train and @test parts")
    parser.add_argument("--ood", nargs="+", default=[], metavar="NAME=SOURCE")
    parser.add_argument(
        "--rows", type=int, default=20_000, help="rows that the parts are measured on; 0: leave them out"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    arguments = parser.parse_args()
    lines: list[str] = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
        if arguments.markdown:
            arguments.markdown.write_text("\n".join(lines) + "\n")


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of both tables, as they become known."""
    yield from whole(arguments)
    if not arguments.rows:
        return
    yield "\n| part | over | ood_nc | pytorch-ood |\n|---|---|---|---|"
    try:
        for found in ratios(arguments.rows):
            peer = "" if found.peer is None else f"{found.peer:.2f}"
            yield f"| {found.what} | {found.over} | {found.ours:.2f} | {peer} |"
    except Exception as error:  # what is known by then is kept
        yield f"| {told(error)} | | | |"


def whole(arguments: argparse.Namespace) -> Iterator[str]:
    """The whole evaluation and its peers over the bare pass."""
    sets = sources(arguments) if arguments.id else noise(arguments)
    classes = sets["id_train"].num_classes
    model = ControlledModel(
        arguments.model, classes, projector=None, taps=("stages", "encoder"), img_size=arguments.img_size
    )
    contiguous, plain = (timm.create_model(arguments.model, num_classes=classes).eval() for _ in range(2))
    plain.to(memory_format=torch.channels_last)
    transform = eval_transform(model.preprocessing)
    parts = [sets["id_train"], sets["id"], *sets["ood"].values(), *sets["transfer"].get("task", ())]
    images = ConcatDataset([dataset.with_transform(transform) for dataset in parts])
    bare = functools.partial(forward, plain, images, torch.channels_last)
    options = {"bootstrap": arguments.bootstrap, "device": "cpu"}
    yield (
        f"{arguments.model}, {arguments.img_size} px: {len(images)} images, {len(model.tap_names)} taps, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    yield "| | seconds | x bare | processor seconds | x bare, processor | |\n|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        runs: list[tuple[str, Callable[[], Any]]] = [
            ("bare, contiguous", functools.partial(forward, contiguous, images, torch.contiguous_format))
        ]
        chosen = {f"{len(arguments.detectors)} detectors": arguments.detectors, "every feature detector": ["*"]}
        for (name, detectors), repeat in itertools.product(chosen.items(), range(arguments.repeats)):
            cache = f"{folder}/{name}/{repeat}"
            run = functools.partial(evaluate, model, **sets, **options, detectors=detectors, cache=cache)
            runs += [(f"ood_nc, {name}, {state}", run) for state in ("cold", "warm")]
        runs += [
            ("plain PyTorch", functools.partial(bench_peers.reference, plain, sets, transform)),
            ("pytorch-ood, with its cache", functools.partial(bench_peers.pytorch_ood, plain, sets, transform)),
        ]
        timed(functools.partial(forward, plain, Subset(images, range(min(128, len(images)))), torch.channels_last))
        passes, measured = [timed(bare)[0]], dict[str, list[Run]]()
        for name, run in runs:
            try:
                seconds, result = timed(run)
            except Exception as error:
                yield f"| {name} | | | | | {told(error)} |"
                continue
            passes.append(timed(bare)[0])
            ratio = Seconds(*(2 * mine / (a + b) for mine, a, b in zip(seconds, *passes[-2:], strict=True)))
            measured.setdefault(name, []).append(Run(ratio, seconds, result))
        for name, found in measured.items():
            yield row(name, sorted(found, key=lambda run: run.ratio.wall))
        walls = sorted(one.wall for one in passes)
        middle = sorted(one.processor for one in passes)[len(passes) // 2]
        spread = f"median of {len(walls)}; {walls[0]:.1f} to {walls[-1]:.1f}"
        yield f"| bare, channels-last | {walls[len(walls) // 2]:.1f} | 1 | {middle:.1f} | 1 | {spread} |"


def row(name: str, runs: list[Run]) -> str:
    """The line of a run of the middle ratio, of runs by their ratio."""
    ratio, seconds, result = runs[len(runs) // 2]
    if isinstance(result, Results):
        result = ", ".join(f"{part} {value:.1f}" for part, value in result.identity["seconds"].items())
    if len(runs) > 1:
        processor = sorted(run.ratio.processor for run in runs)
        result = (
            f"{len(runs)} runs: {runs[0].ratio.wall:.2f} to {runs[-1].ratio.wall:.2f}, processor {processor[0]:.2f} to "
            f"{processor[-1]:.2f}; {result}"
        )
    numbers = [f"{seconds.wall:.1f}", f"{ratio.wall:.2f}", f"{seconds.processor:.1f}", f"{ratio.processor:.2f}"]
    return f"| {name} | {' | '.join(numbers)} | {result} |"


def told(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def forward(network: Any, images: Any, layout: torch.memory_format) -> str:
    """One pass, nothing kept."""
    with torch.inference_mode():
        for batch, _ in DataLoader(images, batch_size=bench_peers.BATCH):
            network(batch.contiguous(memory_format=layout))
    return ""


def timed(run: Callable[[], Any]) -> tuple[Seconds, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor), result


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
