"""Two commands that write the same place at once: one does its work, the other says who does, and nothing is mixed.

    python scripts/attacks/races.py [--races 20]

Each race starts the same command twice. One must exit with 0 and leave what it leaves alone, to the bit; the other must
exit with 2 and one line; no lock and no temporary file may stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SMALL = [
    *("--model", "test_vit", "--img-size", "32", "--limit", "20", "--eval-limit", "40", "-j", "0", "--device", "cpu"),
    *("--epochs", "2", "--batch-size", "16", "--taps", "encoder,projector", "--log-interval", "2"),
    *("--detectors", "energy", "--probes", "nearest_mean", "--bootstrap", "20", "--quiet"),
]


def commands(folder: Path) -> dict[str, list[str]]:
    """What is raced, by name; evaluate needs the run that train made."""
    where = ["--output", str(folder), "--experiment", "run"]
    return {"train": ["train", *SMALL, *where], "evaluate": ["evaluate", str(folder / "run"), "--device", "cpu"]}


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ood_nc", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kept(folder: Path) -> dict[str, object]:
    """What the commands leave that no clock decides."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found["log"] = [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]
        if path.name == "results.json":
            rows = json.loads(path.read_text())["rows"]
            found["rows"] = [row for row in rows if row["metric"] != "seconds"]
        if path.suffix == ".safetensors" and path.parent.name == "checkpoints":
            content = path.read_bytes()
            found[path.name] = content[8 + int.from_bytes(content[:8], "little") :]  # the header names each writing
    return found


def race(name: str, alone: dict[str, object], folder: Path) -> str | None:
    """What went wrong, or None."""
    processes = [start(commands(folder)[name]) for _ in range(2)]
    ends = sorted((process.wait(), process.stderr.read().strip()) for process in processes if process.stderr)
    codes, line = [code for code, _ in ends], ends[1][1]
    if codes != [0, 2]:
        return f"exit codes {codes}: {[text[-300:] for _, text in ends]}"
    if "\n" in line or not ("is being written by process" in line or "already holds a run" in line):
        return f"the loser says {line!r}"
    if kept(folder) != alone:
        return "what is left is not what one command leaves"
    hidden = [path.name for path in folder.rglob(".*")]
    return f"left over: {hidden}" if hidden else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=20, help="of each command")
    races = parser.parse_args(arguments).races
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        straight = Path(folder) / "straight"
        for name, command in commands(straight).items():
            if start(command).wait() != 0:
                raise SystemExit(f"{name} fails alone")
            alone = kept(straight)
            for number in range(races):
                place = Path(folder) / f"{name}-{number}"
                if name == "evaluate" and start(commands(place)["train"]).wait() != 0:
                    raise SystemExit("train fails")
                fault = race(name, alone, place)
                failures += fault is not None
                print(f"{name} race {number}: {fault or 'one wrote, one was told'}", flush=True)
    print(f"{failures} of {races * len(commands(straight))} races failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
