"""``evaluate`` and ``fit`` as ``torchrun`` starts them: in several processes that share the forward passes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ood_nc.cli import main
from ood_nc.data import ImageDataset
from ood_nc.sealed import read_sealed

TIMES = ("created", "seconds", "digest")  # the last is of the whole document
EVALUATE = [
    "--evaluation.batch_size",
    "16",
    "--detectors",
    "energy,knn,gradnorm",
    "--probes",
    "nearest_mean",
    "--bootstrap",
    "20",
    "--eval-limit",
    "30",
]


def launch(
    words: Sequence[str], processes: int, folder: Path, spoil: Callable[[int], None] = lambda rank: None
) -> list[tuple[int, str, list[str]]]:
    """Of each process its exit code, what it said, and the images it opened."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_start(words, rank, processes, port, folder, spoil) for rank in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [(folder / f"said{rank}").read_text() for rank in range(processes)]
    opened = [(folder / f"opened{rank}").read_text().splitlines() for rank in range(processes)]
    return list(zip(codes, said, opened, strict=True))


def _start(words: Sequence[str], rank: int, world: int, port: int, folder: Path, spoil: Callable[[int], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(120)
        torch.set_num_threads(1)
        if world > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            os.environ.update({name: str(value) for name, value in ranks.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        for number in (1, 2):
            os.dup2(os.open(folder / f"said{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        opened = os.fdopen(os.open(folder / f"opened{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w", buffering=1)
        item = ImageDataset.__getitem__

        def watched(self: ImageDataset, index: int) -> object:
            print(self.name, index, file=opened)
            return item(self, index)

        ImageDataset.__getitem__ = watched  # type: ignore[method-assign]
        spoil(rank)
        code = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def without_times(document: object) -> object:
    """A results document without what a clock decides."""
    if isinstance(document, dict):
        if document.get("metric") == "seconds":
            return None
        return {name: without_times(value) for name, value in document.items() if name not in TIMES}
    return [without_times(value) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize("several", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_leaves_the_same_results(trained_run: Path, tmp_path: Path, several: int) -> None:
    found, images = {}, {}
    for processes in (1, several):
        folder = tmp_path / str(processes)
        run, file = folder / "run", folder / "d.safetensors"
        shutil.copytree(trained_run, run)
        ends = launch(["evaluate", str(run), *EVALUATE, "-j", "0"], processes, folder)
        assert [code for code, *_ in ends] == [0] * processes, ends
        assert "results:" in ends[0][1] and all(said == "" for _, said, _ in ends[1:])
        images[processes] = sorted(image for *_, opened in ends for image in opened)
        assert all(opened for *_, opened in ends), "every process has forwarded"
        shutil.rmtree(run / "features")
        ends = launch(["fit", str(run), "--detector", "knn", "-o", str(file), "-j", "0"], processes, folder)
        assert [code for code, *_ in ends] == [0] * processes, ends
        results = without_times(json.loads((run / "results.json").read_text()))
        found[processes] = json.dumps(results, sort_keys=True).replace(str(folder), ""), read_sealed(file)[1]
        assert not list(folder.rglob(".*")), "nothing is left over"
    assert images[several] == images[1], "each image as often as alone"
    assert found[several][0] == found[1][0]
    assert all(torch.equal(found[several][1][name], tensor) for name, tensor in found[1][1].items())


@pytest.mark.parametrize("which", [0, 1])
def test_a_mistake_in_one_process_ends_all_with_one_line(trained_run: Path, tmp_path: Path, which: int) -> None:
    def spoil(rank: int) -> None:
        if rank == which:
            from ood_nc.errors import UserError
            from ood_nc.features import extraction

            def refuse(*arguments: object) -> None:
                raise UserError("the disk of this machine has gone: mount it.")

            extraction._forward = refuse  # type: ignore[assignment]

    run = tmp_path / "run"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("results.*"))
    ends = launch(["evaluate", str(run), *EVALUATE, "-j", "0"], 2, tmp_path, spoil)
    assert ends[0][0] == 2 and ends[1][0] != 0
    assert "".join(said for _, said, _ in ends).strip() == "ood-nc: the disk of this machine has gone: mount it."
    assert not (run / "results.json").exists()
