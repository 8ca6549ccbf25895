"""Two different commands that meet on one path: each does its work on a whole state, or says why it does not.

    python scripts/attacks/meetings.py [--races 20] [--seed 0] [--meetings "train, evaluate" ...]

The second command starts at a random moment of the first. Each must exit with 0, or with 2 and one line where it finds
nothing yet or a writer at work. Everything that is left (weights, log, results, detector, scores, page, comparison)
must be, to the bit, what one of the possible orders leaves; where one command reads what the other writes by epochs,
after any of the epochs. No lock, temporary file or part may stay.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from children import SMALL, commands, kept, left_over, start, write_images

REFUSALS = re.compile(
    r"is being written by process|already holds a run|There is no run|has no checkpoint|is not a run directory|"
    r"evaluate the run first|No detector file"
)

# What is done before, and the two that meet.
MEETINGS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "train, evaluate": ((), "train", "evaluate"),
    "train, report": ((), "train", "report"),
    "train, resume": ((), "train", "resume"),
    "train, evaluate another model": ((), "train", "foreign"),
    "resume, evaluate": (("train",), "resume", "evaluate"),
    "resume, report": (("train", "evaluate"), "resume", "report"),
    "resume, fit": (("train",), "resume", "fit"),
    "evaluate anew, report": (("train", "evaluate"), "anew", "report"),
    "evaluate anew, compare": (("train", "evaluate"), "anew", "compare"),
    "evaluate, fit": (("train",), "evaluate", "fit"),
    "fit another, score": (("train", "fit"), "fit another", "score"),
    "fit another, export": (("train", "fit one"), "fit another one", "export"),
}


def words(folder: Path) -> dict[str, list[str]]:
    """The commands of the other attacks, and those that only meet."""
    known, run, images = commands(folder), str(folder / "run"), str(folder / "images")
    model = ["--data.train", "bundled/digits-id::train", *SMALL[: SMALL.index("--epochs")]]
    place = ["--output", str(folder), "--experiment", "run"]
    return known | {
        "train": [*known["train"], "--checkpoint-interval", "1"],
        "resume": ["train", "--resume", "--epochs", "4", *place],
        "foreign": [
            "evaluate",
            *SMALL[: SMALL.index("--epochs")],
            *model,
            *SMALL[SMALL.index("--detectors") :],
            *place,
        ],
        "anew": ["evaluate", run, "--detectors", "msp", "--bootstrap", "10", "--device", "cpu"],
        "report": ["report", run],
        "compare": ["compare", run, run],
        "score": ["score", str(folder / "d.safetensors"), images, "--device", "cpu", "-o", str(folder / "s.parquet")],
        "fit another": [*known["fit"], "--tap", "projector"],
        "fit another one": [*known["fit one"], "--tpr", "0.8"],
    }


def page(path: Path) -> Any:
    """The data of a report: what its rows say, and the steps of its curves, which may go on."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])  # type: ignore[index]
    for run in data["runs"]:
        run.pop("train")
    del data["metrics"]  # of the curves too
    data["series"] = {key: entry for key, entry in data["series"].items() if not key.endswith(" seconds")}
    return data


def state(folder: Path) -> dict[str, Any]:
    """What is there, by part."""
    found = kept(folder)
    if "rows" in found:  # of the weights that it says
        identity = json.loads((folder / "run/results.json").read_text())["identity"]
        found["rows"] = identity["weights_hash"], identity["model"], found["rows"]
    if (folder / "run/report.html").exists():
        found["page"] = page(folder / "run/report.html")
    if (folder / "run/comparison.html").exists():
        document = json.loads((folder / "run/comparison.json").read_text())
        found["comparison"] = document["differences"], page(folder / "run/comparison.html")
    if (folder / "run/config.yaml").exists():
        found["config"] = (folder / "run/config.yaml").read_text()
    return found


def orders(prepared: Path, place: Path, first: str, second: str, said: Path) -> Iterator[dict[str, Any]]:
    """What may be left: before, after each, after both in either order, and the second after any epoch of the first."""
    for names in ((), (first,), (second,), (first, second), (second, first)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(prepared, place)
        for name in names:
            code, text = start(words(place)[name], said).wait()
            if code not in (0, 2):
                raise SystemExit(f"{name} fails alone: {text}")
        yield state(place)
        if names != (first,):
            continue
        for weights in sorted((place / "run/checkpoints").glob("epoch-*.safetensors")):
            shutil.copy(weights, place / "run/checkpoints/best.safetensors")
            start(words(place)[second], said).wait()
            yield {name: value for name, value in state(place).items() if name != "best.safetensors"}


def race(folder: Path, first: str, second: str, delay: float, allowed: list[dict[str, Any]]) -> tuple[list[int], str]:
    """The exit codes, and what went wrong."""
    one = start(words(folder)[first], folder.parent / "said1")
    time.sleep(delay)
    two = start(words(folder)[second], folder.parent / "said2")
    ends = [one.wait(), two.wait()]
    codes = [code for code, _ in ends]
    for code, text in ends:
        if code not in (0, 2) or (code == 2 and ("\n" in text or not REFUSALS.search(text))):
            return codes, f"exit code {code}: {text[-300:]!r}"
    if codes == [2, 2]:
        return codes, "neither did its work"
    left, known = state(folder), {name: [one[name] for one in allowed if name in one] for name in set().union(*allowed)}
    wrong = [name for name, value in left.items() if value not in known.get(name, [])]
    if wrong:
        return codes, f"mixed: {wrong}"
    hidden = left_over(folder)
    return codes, f"left over: {hidden}" if hidden else ""


def attack(name: str, races: int, seed: int, place: Path) -> int:
    """How many of the races of two commands failed."""
    before, first, second = MEETINGS[name]
    generator, said, failures, outcomes = random.Random(f"{seed} {name}"), place / "said", 0, dict[str, int]()
    prepared, folder = place / "prepared", place / "folder"
    shutil.rmtree(prepared, ignore_errors=True)
    write_images(prepared / "images", 12)
    for command in before:
        code, text = start(words(prepared)[command], said).wait()
        if code:
            raise SystemExit(f"{command} fails: {text}")
    begin = time.monotonic()
    allowed = list(orders(prepared, folder, first, second, said))
    length = (time.monotonic() - begin) / 6  # of one command, about
    for number in range(races):
        shutil.rmtree(folder)
        shutil.copytree(prepared, folder)
        codes, fault = race(folder, first, second, generator.uniform(0, length), allowed)
        failures, key = failures + bool(fault), " and ".join(map(str, codes))
        outcomes[key] = outcomes.get(key, 0) + 1
        if fault:
            print(f"{name}, race {number}: {fault}", flush=True)
    print(f"{name}: exit codes {outcomes}, {failures} of {races} races failed", flush=True)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=20, help="of each two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--meetings", nargs="+", choices=MEETINGS, default=MEETINGS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return int(sum(attack(name, given.races, given.seed, Path(folder)) for name in given.meetings) > 0)


if __name__ == "__main__":
    sys.exit(main())
