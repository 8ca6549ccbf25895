"""Two commands that write the same place at once: one does its work, the other says who does, and nothing is mixed.

    python scripts/attacks/races.py [--races 20] [--commands train evaluate fit score export]

Each race starts the same command twice. One must exit with 0 and leave what it leaves alone, to the bit; the other must
exit with 2 and one line; no lock and no temporary file may stay. Where the second came so late that the first had
finished, a command that replaces its output may also do its work again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from children import commands, kept, left_over, prepare, start

COMMANDS = ("train", "evaluate", "fit", "score", "export")
REFUSALS = ("is being written by process", "already holds a run", "is there already")


def race(name: str, alone: dict[str, object], folder: Path) -> str | None:
    """What went wrong, or None."""
    words = commands(folder)[name]
    children = [start(words, folder.parent / f"said{number}") for number in range(2)]
    ends = sorted(child.wait() for child in children)
    codes, line = [code for code, _ in ends], ends[1][1]
    if codes != [0, 2] and (codes != [0, 0] or name in ("train", "score")):
        return f"exit codes {codes}: {[text[-300:] for _, text in ends]}"
    if codes == [0, 2] and ("\n" in line or not any(refusal in line for refusal in REFUSALS)):
        return f"the loser says {line!r}"
    if kept(folder) != alone:
        return "what is left is not what one command leaves"
    hidden = left_over(folder)
    return f"left over: {hidden}" if hidden else None


def attack(name: str, races: int, place: Path) -> int:
    """How many of the races of a command failed."""
    prepared, straight, said, failures = place / name, place / "straight", place / "said", 0
    prepare(prepared, name, said)
    # Each starts from a copy under one name, so that what they leave can be compared to the bit.
    shutil.copytree(prepared, straight)
    code, text = start(commands(straight)[name], said).wait()
    if code:
        raise SystemExit(f"{name} fails alone: {text}")
    alone = kept(straight)
    for number in range(races):
        shutil.rmtree(straight)
        shutil.copytree(prepared, straight)
        fault = race(name, alone, straight)
        failures += fault is not None
        print(f"{name} race {number}: {fault or 'nothing lost or mixed'}", flush=True)
    shutil.rmtree(straight)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=20, help="of each command")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        failures = sum(attack(name, given.races, Path(folder)) for name in given.commands)
    print(f"{failures} of {given.races * len(given.commands)} races failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
