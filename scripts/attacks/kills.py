"""Long commands that are killed at a random moment: run again, each must end as if nothing had happened.

    python scripts/attacks/kills.py [--kills 20] [--seed 0] [--commands train evaluate fit score] [--processes 2]

Each is stopped by SIGKILL, SIGTERM or SIGINT, and started again (train with ``--resume`` where it has begun; it writes
a checkpoint after every step). What it leaves must be what an undisturbed one leaves, to the bit, without a lock, a
temporary file or parts; by SIGTERM and SIGINT it must exit with 130 and one line. Of several processes, which share the
work as under ``torchrun``, all are stopped.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from children import Child, commands, kept, left_over, prepare, start

COMMANDS = ("train", "evaluate", "fit", "score")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def words_of(name: str, folder: Path) -> list[str]:
    """The command; a training writes a checkpoint after every step."""
    return [*commands(folder)[name], *(["--recovery-interval", "1"] if name == "train" else [])]


def launch(words: Sequence[str], said: Path, processes: int) -> list[Child]:
    """Start a command in so many processes that share its work."""
    if processes == 1:
        return [start(words, said)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    ranks = [{**common, **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))} for rank in range(processes)]
    return [start(words, said.with_name(f"said{rank}"), of_rank) for rank, of_rank in enumerate(ranks)]


def wait(children: Sequence[Child]) -> tuple[int, str]:
    """The exit code of the first, and what all said."""
    ends = [child.wait() for child in children]
    return ends[0][0], "\n".join(text for _, text in ends if text)


def kill(
    name: str, alone: dict[str, object], folder: Path, number: signal.Signals, seconds: float, processes: int
) -> tuple[bool, str]:
    """Whether the command was stopped on its way, and what went wrong."""
    said, words = folder.parent / "said", words_of(name, folder)
    children = launch(words, said, processes)
    time.sleep(seconds)
    early = not any(child.ended() for child in children)
    if early:
        for child in children:
            os.kill(child.pid, number)
    code, text = wait(children)
    expected = (-number, 0) if number == signal.SIGKILL else (130, 0)
    if code not in expected or (code == 130 and "\n" in text):
        return early, f"it ends with {code}: {text[-300:]!r}"
    finished = code == 0
    if not finished:
        resume = ["--resume"] if name == "train" and (folder / "run").exists() else []
        code, text = wait(launch([*words, *resume], said, processes))
        if code:
            return early, f"run again it ends with {code}: {text[-300:]!r}"
    left = kept(folder)
    differing = sorted(name for name in left.keys() | alone.keys() if left.get(name) != alone.get(name))
    if differing:
        return early, f"what is left is not what an undisturbed command leaves: {differing}"
    hidden = left_over(folder)
    return early and not finished, f"left over: {hidden}" if hidden else ""


def attack(name: str, kills: int, seed: int, place: Path, processes: int) -> int:
    """How many of the kills of a command it did not survive."""
    generator = random.Random(f"{seed} {name}")
    prepared, straight, said, failures, stopped = place / name, place / "straight", place / "said", 0, 0
    prepare(prepared, name, said)
    shutil.copytree(prepared, straight)
    begin = time.monotonic()
    code, text = wait(launch(words_of(name, straight), said, processes))
    length = time.monotonic() - begin
    if code:
        raise SystemExit(f"{name} fails alone: {text}")
    alone = kept(straight)
    for number in range(kills):
        shutil.rmtree(straight)
        shutil.copytree(prepared, straight)
        how, after = SIGNALS[number % 3], generator.uniform(0.03, 0.97) * length
        early, fault = kill(name, alone, straight, how, after, processes)
        stopped, failures = stopped + early, failures + bool(fault)
        outcome = fault or ("survived" if early else "it had ended")
        print(f"{name}, {how.name} after {after:.2f} s: {outcome}", flush=True)
    shutil.rmtree(straight)
    print(f"{name}: {kills} kills, {stopped} on the way, {failures} faults", flush=True)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--processes", type=int, default=1, help="that share each command; not for score")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place, processes = Path(folder), given.processes
        return int(sum(attack(name, given.kills, given.seed, place, processes) for name in given.commands) > 0)


if __name__ == "__main__":
    sys.exit(main())
