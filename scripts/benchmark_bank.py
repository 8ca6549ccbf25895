"""An evaluation over a bank of a million stored features in half precision, and the memory it takes.

    python scripts/benchmark_bank.py make --work DIR [--rows 1000000] [--dim 512] [--classes 100]
    python scripts/benchmark_bank.py measure --work DIR [--detectors knn mahalanobis] [--probes linear]
    python scripts/benchmark_bank.py read --work DIR

The features are those of scripts/benchmark_neighbors.py: unit rows of classes with a spectrum, OOD of other classes.
The first writes them as a folder of .npy files that `ood-nc evaluate --features DIR` takes too. The second evaluates
it, by default with the detectors and probes that an evaluation has by default, and prints the largest resident memory
(the mapped file counts), the processor time and what was found. The third writes the train features, beside the folder,
as a bank keeps them, and reads the file in turns as bytes and as a bank: with opening it, which checks its digest, from
the disk and from the page cache, and from there opened before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmark_neighbors import mixture

from ood_nc.evaluation import evaluate
from ood_nc.sealed import RowFile, read_sealed

_BLOCK = 1 << 16
_ROUNDS, _BUFFER = 5, 1 << 20
_TESTED, _TASK = 2000, 20_000


def make(work: Path, rows: int, dim: int, classes: int) -> None:
    """Write every set, a block at a time."""
    known, others = range(classes), range(classes, 2 * classes)
    write(work / "id_train", rows, dim, known, seed=1)
    write(work / "id_test", _TESTED, dim, known, seed=2)
    write(work / "ood" / "other", _TESTED, dim, others, seed=2)
    write(work / "transfer" / "other" / "train", _TASK, dim, others, seed=1)
    write(work / "transfer" / "other" / "test", _TESTED, dim, others, seed=3)


def write(folder: Path, rows: int, dim: int, classes: range, seed: int) -> None:
    """A set of ``rows`` (n, d) in half precision, and their classes, numbered from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(rows) % _BLOCK % len(classes)
    np.save(folder / "labels.npy", labels)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, dim))
    for number, start in enumerate(range(0, rows, _BLOCK)):
        block = features[start : start + _BLOCK]
        block[:] = mixture(len(block), dim, classes, seed=1000 * seed + number).half().numpy()
    features.flush()


def measure(work: Path, detectors: list[str] | None, probes: list[str] | None) -> None:
    """Evaluate, and print what it took."""
    before, started = peak(), time.process_time()
    results = evaluate(features=work, detectors=detectors, probes=probes, bootstrap=100)
    used = time.process_time() - started
    print(f"peak {peak():.2f} GB resident, {before:.2f} GB of it before; {used:.0f} s of processor")
    print({name: round(seconds) for name, seconds in results.identity["seconds"].items()})
    for row in results.rows:
        if (row["metric"], row["dataset"]) in (("auroc", "other"), ("accuracy", "other"), ("accuracy", "id_test")):
            print(row["kind"], row["method"], row["value"], row["reason"] or "")
        if row["metric"] in ("nc1_pinv", "ncc_accuracy"):
            print(row["metric"], row["dataset"], row["value"])


def read(work: Path) -> None:
    """Read the bank in every way, in turns, and print seconds and the rates beside that of its bytes."""
    path = work.with_name(f"{work.name}.safetensors")  # the folder itself holds features alone
    if not path.exists():
        features = np.load(work / "id_train" / "features.npy", mmap_mode="c")
        file = RowFile(path, features.shape[1], torch.float16, len(features), {})
        for start in range(0, len(features), _BLOCK):
            file.append(torch.from_numpy(features[start : start + _BLOCK]))
        file.seal()
        file.close()
    calls = {"bytes": lambda: read_bytes(path), "bank, with opening": lambda: copied(read_sealed(path)[1]["rows"])}
    compare("disk", calls, before=lambda: forget(path))
    opened = read_sealed(path)[1]["rows"]
    compare("page cache", calls | {"bank, opened before": lambda: copied(opened)}, before=lambda: None)


def compare(place: str, calls: dict[str, Callable[[], None]], before: Callable[[], None]) -> None:
    """Time calls in turns, and print seconds and rates beside the first."""
    walls, used = torch.zeros(2, _ROUNDS, len(calls))
    for turn in range(_ROUNDS):
        for number, call in enumerate(calls.values()):
            before()
            start, processor = time.perf_counter(), time.process_time()
            call()
            walls[turn, number] = time.perf_counter() - start
            used[turn, number] = time.process_time() - processor
    for number, name in enumerate(calls):
        wall, processor = (float((times[:, 0] / times[:, number]).median()) for times in (walls, used))
        print(
            f"{place}, {name}: {float(walls[:, number].median()):.2f} s, rate beside that of bytes {wall:.2f}", end=""
        )
        print(f" (in processor time {processor:.2f})")


def read_bytes(path: Path) -> None:
    """Read a file into one buffer, block by block."""
    buffer = bytearray(_BUFFER)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def copied(rows: torch.Tensor) -> None:
    """Copy rows into one buffer, block by block."""
    step = _BUFFER // (rows.shape[1] * rows.element_size())
    buffer = rows.new_empty(step, rows.shape[1])
    for block in rows.split(step):
        buffer[: len(block)].copy_(block)


def forget(path: Path) -> None:
    """Ask the system to drop a file from its page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak() -> float:
    """The largest resident memory of this process so far, GB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "read"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the features")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--detectors", nargs="+")
    parser.add_argument("--probes", nargs="+")
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(arguments.work, arguments.rows, arguments.dim, arguments.classes)
    elif arguments.what == "read":
        read(arguments.work)
    else:
        measure(arguments.work, arguments.detectors, arguments.probes)


if __name__ == "__main__":
    main()
