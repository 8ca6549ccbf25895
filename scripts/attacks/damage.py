"""Random damage to every file that a run or a detector reads back: none may be accepted with changed content.

    python scripts/attacks/damage.py [--mutations 2000] [--seed 0]

Bytes are changed, cut off, put in or moved. Right is: one line (a `UserError`), or the very content that was written (a
cache that is made again, damage to what nobody reads).
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from children import commands, prepare, start

from ood_nc.cli import main as ood_nc
from ood_nc.data import eval_transform, open_dataset
from ood_nc.deployment import Detector, score_images
from ood_nc.errors import UserError
from ood_nc.evaluation import Results
from ood_nc.features import BankStore
from ood_nc.training.checkpoints import load_model, read_last

Reader = Callable[[], Any]


def content(value: Any) -> str:
    """A digest of tensors and plain values in containers."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return repr(sorted((str(key), content(inner)) for key, inner in value.items()))
    if isinstance(value, (list, tuple)):
        return repr([content(inner) for inner in value])
    return repr(value)


def targets(folder: Path) -> dict[Path, Reader]:
    """The files, each with what reads it back."""
    checkpoints, detector, output = folder / "run/checkpoints", folder / "d.safetensors", folder / "s.parquet"
    judge = Detector.load(detector)
    images = [torch.zeros(1, *judge.model.preprocessing["input_size"])]
    digits = open_dataset("bundled/digits-near").subset([0, 1])
    digits = digits.with_transform(eval_transform(judge.model.preprocessing))
    store = BankStore(folder / "features")
    store.get(judge.model, digits)

    def weights(name: str) -> Any:
        model, facts = load_model(checkpoints / name)
        return model.spec(), model.state_dict(), facts

    def state() -> Any:
        last = read_last(checkpoints)
        return last and last[1]

    def verdict() -> Any:
        found = Detector.load(detector)
        return found.model.spec(), found.about, found(images[0]).scores, found.calibration.scores

    def bank() -> Any:
        found = store.get(judge.model, digits)
        return found.taps, found.logits, found.labels, found.ids

    def results() -> Any:
        found = Results.load(folder / "run")
        return found.rows, found.identity, found.relations, found.choices, found.series, str(found.scores)

    def rows() -> Any:
        parts, kept = output.with_name("s.parquet.parts"), folder / "kept"
        shutil.copytree(parts, kept)
        try:
            score_images(judge, [folder / "images"], output, batch_size=4)
            return pq.read_table(output).to_pydict()
        finally:
            output.unlink(missing_ok=True)
            shutil.rmtree(parts, ignore_errors=True)
            kept.rename(parts)

    found: dict[Path, Reader] = {
        checkpoints / "best.safetensors": lambda: weights("best.safetensors"),
        checkpoints / "last.safetensors": lambda: (weights("last.safetensors"), state()),
        checkpoints / "last.state.pt": state,
        detector: verdict,
        folder / "run/results.json": results,
        folder / "run/scores.parquet": results,
    }
    found |= dict.fromkeys((path for path in (folder / "features").rglob("*") if path.is_file()), bank)
    return found | dict.fromkeys(interrupted(judge, folder, output), rows)


def interrupted(judge: Detector, folder: Path, output: Path) -> list[Path]:
    """What a call leaves that is stopped on its way."""
    call, seen = Detector.__call__, []

    def stopping(self: Detector, images: Any, **options: Any) -> Any:
        seen.append(0)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return call(self, images, **options)

    Detector.__call__ = stopping  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        score_images(judge, [folder / "images"], output, batch_size=4)
    Detector.__call__ = call  # type: ignore[method-assign]
    return sorted(output.with_name("s.parquet.parts").iterdir())


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one thing, or a few, that went wrong."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at, way = rng.randrange(len(found) or 1), rng.random()
        # Headers are short and matter most: half of the damage falls there.
        at = min(at, rng.randrange(4096)) if rng.random() < 0.5 else at
        if way < 0.5:
            found[at : at + 1] = bytes([found[at] ^ (1 << rng.randrange(8))]) if at < len(found) else b"\0"
        elif way < 0.7:
            found[at : at + 16] = rng.randbytes(min(16, len(found) - at))
        elif way < 0.8:
            del found[at:]
        elif way < 0.9:
            found[at:at] = rng.randbytes(rng.randrange(1, 30))
        else:
            block = found[at : at + 64]
            other = rng.randrange(len(found) or 1)
            found[at : at + 64], found[other : other + 64] = found[other : other + 64], block
    return bytes(found)


def attack(mutations: int, seed: int, folder: Path) -> int:
    """How many mutations were accepted with changed content, or did not end in one line."""
    generator, failures, outcomes = random.Random(seed), 0, Counter[tuple[str, str]]()
    said = folder / "said"
    prepare(folder, "score", said)
    if start(commands(folder)["evaluate"], said).wait()[0]:
        raise SystemExit("evaluate fails")
    known = targets(folder)
    sound = {path: content(read()) for path, read in known.items()}
    for number in range(mutations):
        path = list(known)[number % len(known)]
        before = path.read_bytes()
        after = damaged(before, generator)
        path.write_bytes(after)
        try:
            outcome = "the content as written" if content(known[path]()) == sound[path] else "ACCEPTED CHANGED"
        except UserError as error:
            outcome = "one line" if "\n" not in str(error) else "SEVERAL LINES"
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"FAULT {type(error).__name__} {Path(frame.filename).name}:{frame.lineno}"
        path.write_bytes(before)
        outcomes[path.name[:20], outcome if after != before else "nothing was changed"] += 1
        if outcome.isupper() or outcome.startswith("FAULT"):
            failures += 1
            print(f"{number}: {path.name}: {outcome}", flush=True)
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{name:22} {outcome:24} {count}")
    print(f"{mutations} mutations, {failures} failures", flush=True)
    return failures


def command_lines(folder: Path) -> int:
    """How many damaged files do not end a command with 2 and one line."""
    failures = 0
    detector, image = folder / "d.safetensors", str(folder / "images/000.png")
    for path, words in {
        detector: ["score", str(detector), image],
        folder / "run/checkpoints/best.safetensors": ["evaluate", str(folder / "run")],
        folder / "run/results.json": ["report", str(folder / "run")],
        folder / "run/config.yaml": ["fit", str(folder / "run"), "-o", str(folder / "x.safetensors")],
    }.items():
        before = path.read_bytes()
        path.write_bytes(before[: len(before) // 2] + b"\xff{[")
        code = ood_nc(words)
        path.write_bytes(before)
        failures += code != 2
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        failures = attack(given.mutations, given.seed, Path(folder))
        return int(failures + command_lines(Path(folder)) > 0)


if __name__ == "__main__":
    sys.exit(main())
