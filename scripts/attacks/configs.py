"""Configurations that went wrong: whatever a YAML file holds, training ends in one line, never in a fault.

    python scripts/attacks/configs.py [--mutations 300] [--seed 0]

Each mutation changes a small valid configuration in one place: a value of another type or far out of range, a key
renamed, dropped, doubled or moved, a character of the text replaced. A run that a mutation leaves valid is trained for
some seconds. Exit codes 0 (trained), 2 (refused with one line) and 130 (stopped by the clock) are right, 1 is a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ood_nc.cli import main as ood_nc
from ood_nc.config import load
from ood_nc.training import setup

SMALL = {
    "model.name": "test_vit", "model.img_size": 32, "model.taps": ["encoder", "projector"], "data.limit": 2,
    "data.ood": {"textures": "bundled/textures"}, "data.transfer": {"digits": "bundled/digits-transfer::train"},
    "train.epochs": 1, "train.batch_size": 8, "train.workers": 0, "train.device": "cpu", "augment.scale": [0.5, 1.0],
}  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1.5, 1e-300, 1e30, -1e30, 2**31, 2**63, 10**25, float("inf"),
    float("nan"), "", " ", "a", "none", "None", "auto", "../../x", "/", "/dev/null", "a\nb", "a\0b", "\u2028", "\ud83d",
    "x" * 5000, "*", "[", "encoder", "resnet18", "hf-hub:a/b", "2001-01-01", [], [0], [1, 2], [[1]], [None], ["a", "a"],
    {}, {"a": 1}, {"": 1}, {"encoder": 1.0}, {"a": {"b": 1}}, {1: 2},
]  # fmt: skip


def places(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key."""
    found = []
    for key, value in values.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += places(value, (*prefix, key))
    return found


def inside(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    for part in path:
        values = values[part]
    return values


def mutate(text: str, generator: random.Random) -> tuple[str, str]:
    """A changed text, and what was changed."""
    values = yaml.safe_load(text)
    path = generator.choice(places(values))
    parent, key = inside(values, path[:-1]), path[-1]
    name, way = ".".join(path), generator.choice(["value"] * 6 + ["key", "drop", "move", "twice", "letter", "cut"])
    if way == "value":
        parent[key] = generator.choice(VALUES)
        name += f" = {parent[key]!r:.60}"
    elif way == "key":
        parent[key[:-1] + generator.choice("xyz_.- ")] = parent.pop(key)
    elif way == "drop":
        del parent[key]
    elif way == "move":
        values[key] = parent.pop(key)
    elif way == "twice":
        return text + f"\n{path[0]}: {{}}\n", f"{path[0]} twice"
    else:
        at = generator.randrange(len(text))
        letter = generator.choice("[]{}:,'\"#&*!|>%@`?-\t\n\0\x7f\ufeff0aé") if way == "letter" else ""
        return (text[:at] + letter + text[at + 1 :] if letter else text[:at]), f"{way} {letter!r} at {at}"
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True), f"{way} {name}"


def attempt(text: str, folder: Path, seconds: int) -> tuple[int, str]:
    """The exit code of training with this text as the configuration, and what was said."""
    (folder / "c.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    said, previous = io.StringIO(), signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = ood_nc(
                ["train", "--config", str(folder / "c.yaml"), "--experiment", "x", "--output", str(folder / "r")]
            )
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return code, said.getvalue().strip().rpartition("\n")[2]


@contextlib.contextmanager
def built_once() -> Iterator[None]:
    """Let configurations whose section ``model`` was not changed have copies of one network."""
    build, known = setup.build_model, dict[str, Any]()

    def build_model(settings: Any, classes: int) -> Any:
        key = f"{classes} {settings.model_dump_json()}"
        if known and key not in known:
            return build(settings, classes)
        if not known:
            known[key] = build(settings, classes)
        return copy.deepcopy(known[key])

    setup.build_model = build_model
    try:
        yield
    finally:
        setup.build_model = build


@built_once()
def attack(mutations: int, seed: int = 0, seconds: int = 8) -> list[str]:
    """Every mutation that ended in a fault."""
    generator, faults, codes = random.Random(seed), [], dict[int, int]()
    start = load(None, SMALL).to_yaml()
    with tempfile.TemporaryDirectory() as folder:  # without a clock, which would leave an import half done
        if attempt(start, Path(folder), 0)[0] != 0:
            raise SystemExit("the configuration to be mutated does not train")
    for number in range(mutations):
        text, what = mutate(start, generator)
        with tempfile.TemporaryDirectory() as folder:
            code, line = attempt(text, Path(folder), seconds)
        codes[code] = codes.get(code, 0) + 1
        if code not in (0, 2, 130):
            faults.append(f"{number}: {what}: {code}: {line}")
            print(faults[-1], flush=True)
    print(f"{mutations} mutations; exit codes {dict(sorted(codes.items()))}", flush=True)
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    return int(bool(attack(given.mutations, given.seed)))


if __name__ == "__main__":
    sys.exit(main())
