"""An extraction killed at random moments: the bank must be, to the byte, the one that nothing has interrupted.

    python scripts/attacks/banks.py [--kills 10] [--images 600] [--seed 0]

A process that makes a feature bank is stopped by SIGKILL and started again, so many times, then left to end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ood_nc.data import ImageDataset, eval_transform, open_dataset
from ood_nc.features import BankStore
from ood_nc.models import ControlledModel

Extraction = tuple[ControlledModel, ImageDataset]


def begin(extraction: Extraction, folder: Path) -> int:
    """Start the process; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        BankStore(folder).get(*extraction, batch_size=4)
        code = 0
    finally:
        os._exit(code)


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is there, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attack(kills: int, images: int, seed: int, place: Path) -> tuple[int, bool]:
    """How many of the kills came before the end, and whether the bank is the same."""
    torch.manual_seed(0)
    model = ControlledModel("test_resnet.r160_in1k", 5, taps=("layer*", "encoder", "projector"), img_size=32)
    whole = open_dataset("bundled/digits-id::train").subset(range(images))
    extraction = model, whole.with_transform(eval_transform(model.preprocessing))
    start = time.monotonic()
    os.waitpid(begin(extraction, place / "whole"), 0)
    length, generator, early = time.monotonic() - start, random.Random(seed), 0
    for _ in range(kills):
        child = begin(extraction, place / "killed")
        time.sleep(generator.uniform(0, 2 * length / (kills + 2)))
        os.kill(child, signal.SIGKILL)
        early += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    code = os.waitstatus_to_exitcode(os.waitpid(begin(extraction, place / "killed"), 0)[1])
    return early, code == 0 and files(place / "killed") == files(place / "whole")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        early, same = attack(given.kills, given.images, given.seed, Path(folder))
    print(f"{given.kills} kills, {early} on the way: the bank is {'the same to the byte' if same else 'ANOTHER'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
