"""What training and evaluation cost at scale: a model, its tables, and measured points on 1, 2 and 4 processes.

Running it writes docs/scaling.md; with --measure it measures the points anew into docs/scaling/measured.csv first:
python docs/scaling.py [--measure]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ood_nc.losses import nearest_neighbor_entropy
from ood_nc.models import ControlledModel
from ood_nc.training.sharding import local, shard

HERE = Path(__file__).parent
MEASURED = HERE / "scaling" / "measured.csv"
SHARDED = HERE / "scaling" / "sharded.csv"
PER_GPU = 256
"""Images of a step on each GPU in the tables."""

IMAGES = {"ImageNet-1K": (1_281_167, 1000), "ImageNet-21K": (14_197_122, 21_841)}
RESNET50 = 3 * 2 * 4.1e9
"""Floating-point operations of a step of ResNet-50 at 224 px, an image: 4.1 G multiply-adds, thrice for the gradients."""

FP64 = {"H100, H200": 34e12, "A100": 9.7e12, "L40S, RTX 4090 (1/64 of float32)": 1.4e12}
"""Peak float64 operations a second outside tensor cores, of the makers' data sheets."""


def search(own: int, batch: int, dim: int) -> float:
    """Operations of the search in one process: its own rows against the joined batch, in float64."""
    return 2.0 * own * batch * dim


def term_memory(own: int, batch: int, dim: int) -> float:
    """Bytes of the entropy term in one process.

    The cosines in float64, once more where rows are excluded, and which; the joined batch in float64 for them, and in
    float32 seven times: joined, scaled, normalised, of the neighbours, the differences, and two gradients at a time.
    """
    return own * batch * (8 + 8 + 1) + batch * dim * (8 + 7 * 4)


def gathered(own: int, batch: int, dim: int) -> float:
    """Bytes that one process receives for the entropy term: the others' rows in float32, and their neighbours."""
    return (batch - own) * (4 * dim + 8)


def control_memory(classes: int, dim: int) -> float:
    """Bytes of one controlled tap in each process: an average and what waits to be joined, in float64."""
    return 2 * 8 * (classes * dim + dim * dim)


def bank(images: int, dims: Sequence[int], classes: int, width: int) -> float:
    """Bytes of a feature bank: taps of ``width`` bytes a number, logits in float32."""
    return images * (sum(dims) * width + 4 * classes)


def weights(parameters: float, moments: int) -> float:
    """Bytes of weights, gradients, the optimiser's moments and DDP's buckets, in float32, in each process."""
    return parameters * 4 * (3 + moments)


def shares(parameters: float, moments: int, processes: int) -> float:
    """Bytes of sharded weights, gradients and moments, in float32, in each process."""
    return parameters * 4 * (2 + moments) / processes


# Measured points: seconds of processor time in each process, forward and backward of the term; bytes of a sharded model.


def _time(batch: int, dim: int, repeats: int, rank: int, world: int) -> float:
    rows = torch.randn(batch // world, dim, generator=torch.Generator().manual_seed(rank), requires_grad=True)
    nearest_neighbor_entropy(rows).backward()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        nearest_neighbor_entropy(rows).backward()
        found.append(time.process_time() - start)
    return min(found)


def _hold(rank: int, world: int) -> list[int]:
    """Bytes of weights, gradients and moments in this process after a step of a ViT-S with AdamW."""
    model = ControlledModel("vit_small_patch16_224", num_classes=1000)
    if world > 1:
        shard(model, torch.device("cpu"), world)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, 224, 224)).sum().backward()
    weights = list(model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    return [sum(local(tensor).nbytes for tensor in tensors) for tensors in (weights, gradients, moments)]


def in_processes(world: int, work: Callable[[int, int], Any]) -> list[Any]:
    """What ``work`` returns in each of so many processes, one thread each; it is given the rank and their number."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        free.close()
        children = []
        for rank in range(world):
            child = os.fork()
            if not child:
                code = 1
                try:
                    torch.set_num_threads(1)
                    if world > 1:
                        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
                    Path(folder, f"{rank}.json").write_text(json.dumps(work(rank, world)))
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        if any(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children):
            raise SystemExit("a process failed")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]


def measure(world: int, batch: int, dim: int, repeats: int = 4) -> float:
    """Seconds of processor time of the term in the slowest of so many processes; the least of some repeats."""
    return max(in_processes(world, partial(_time, batch, dim, repeats)))


def measure_shares() -> None:
    """Write what the processes of a sharded model hold: of each kind, the most that one has."""
    with SHARDED.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["processes", "weights", "gradients", "moments"])
        for world in (1, 2, 4):
            table.writerow([world, *(max(kind) for kind in zip(*in_processes(world, _hold), strict=True))])
            file.flush()


def measure_all() -> None:
    """Write the measured points."""
    MEASURED.parent.mkdir(exist_ok=True)
    with MEASURED.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["processes", "batch", "dim", "seconds"])
        for dim in (256, 1024):
            for batch in (512, 2048):
                for world in (1, 2, 4):
                    table.writerow([world, batch, dim, f"{measure(world, batch, dim):.4f}"])
                    file.flush()


def fitted(points: Sequence[dict[str, float]]) -> list[float]:
    """Seconds an operation of the search, a cosine, a number of the joined batch, and one received, by least squares."""
    rows = [_parts(point) for point in points]
    design = torch.tensor([[part / point["seconds"] for part in row] for row, point in zip(rows, points, strict=True)])
    solution = torch.linalg.lstsq(design.double(), torch.ones(len(rows), 1, dtype=torch.float64)).solution
    return solution.flatten().tolist()


def _parts(point: dict[str, float]) -> tuple[float, float, float, float]:
    batch, dim = point["batch"], point["dim"]
    own = batch / point["processes"]
    return 2 * own * batch * dim, own * batch, batch * dim, (batch - own) * dim


# The page.


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(number: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError


def terms() -> str:
    """The entropy term by global batch."""
    rows = []
    for batch in (512, 1024, 2048, 4096, 8192, 16_384, 32_768):
        own, dim = PER_GPU, 2048
        milliseconds = [f"{search(own, batch, dim) / speed * 1e3:.2g}" for speed in FP64.values()]
        costs = [size(gathered(own, batch, dim)), size(term_memory(own, batch, dim))]
        rows.append([f"{batch:,}", f"{batch // own}", *costs, *milliseconds])
    head = ["global batch", "GPUs", "received", "memory", *(f"search, ms: {name}" for name in FP64)]
    return table(head, rows)


def controllers() -> str:
    """A controlled tap by data set and width."""
    rows = []
    for name, (_, classes) in IMAGES.items():
        for dim in (512, 2048):
            svd = 6 * classes * dim * min(classes, dim)
            state = control_memory(classes, dim)
            rows.append([name, str(dim), size(state), size(state / 2), f"{svd / 1e9:,.0f} G"])
    return table(["data", "columns", "memory", "joined, 100 times a run", "operations, 100 times a run"], rows)


def banks() -> str:
    """The training set as a bank."""
    rows = []
    for name, (images, classes) in IMAGES.items():
        for dims, what in (
            ((2048,), "one tap of 2,048"),
            ((256, 512, 1024, 2048, 2048), "four stages and a projector"),
        ):
            sizes = [size(bank(images, dims, classes, width)) for width in (4, 2)]
            rows.append([name, what, *sizes, size(images * 4 * classes)])
    return table(["data", "taps", "float32", "float16", "of it logits"], rows)


def points() -> tuple[str, float]:
    """Measured against modelled, and the largest relative error."""
    with MEASURED.open() as file:
        found = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    constants = fitted([point for point in found if point["processes"] <= 2])  # and foretold for more
    rows, worst = [], 0.0
    for point in found:
        said = sum(constant * part for constant, part in zip(constants, _parts(point), strict=True))
        if point["processes"] > 2:
            worst = max(worst, abs(said / point["seconds"] - 1))
        place = [f"{point[name]:,.0f}" for name in ("processes", "batch", "dim")]
        rows.append([*place, f"{1e3 * point['seconds']:.0f}", f"{1e3 * said:.0f}", f"{said / point['seconds']:.2f}"])
    head = ["processes", "global batch", "columns", "measured, ms", "model, ms", "ratio"]
    return table(head, rows), worst


def held() -> str:
    """Measured bytes in a process of a sharded model, and of all three what share of one process's."""
    with SHARDED.open() as file:
        found = [[int(number) for number in row] for row in list(csv.reader(file))[1:]]
    one = sum(found[0][1:])
    rows = [[str(row[0]), *map(size, row[1:]), size(sum(row[1:])), f"{sum(row[1:]) / one:.3f}"] for row in found]
    return table(["processes", "weights", "gradients", "moments", "together", "of one process's"], rows)


def page() -> str:
    """The whole page."""
    measured, worst = points()
    step = RESNET50 * PER_GPU
    return (HERE / "scaling" / "introduction.md").read_text().format(
        per_gpu=PER_GPU,
        terms=terms(),
        controllers=controllers(),
        banks=banks(),
        measured=measured,
        worst=f"{100 * worst:.0f}",
        step=f"{step / 1e12:.1f}",
        share=f"{search(PER_GPU, 32_768, 2048) / step:.1%}",
        weights_small=size(weights(25.6e6, 1)),
        weights_large=size(weights(1.1e9, 2)),
        weights_shared=size(shares(1.1e9, 2, 8)),
        held=held(),
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the points anew, on this machine's processors")
    if parser.parse_args().measure:
        measure_all()
        measure_shares()
    (HERE / "scaling.md").write_text(page(), encoding="utf-8")
    sys.exit(0)
