"""Files that somebody else made, absurd inside but with a right digest: each is refused in one line, or it works.

    python scripts/attacks/mutations.py [--mutations 3000] [--seed 0] [--kinds detector checkpoint ...] [--seconds 900]

A detector file, a run's checkpoint, weights (.safetensors, .pt), features (.npz, .safetensors), results.json and
scores.parquet are taken apart, changed in one to three places (values, keys, nesting, shapes, types, sizes), put
together again and read as their commands do. Archives, arrays, lists and images: data_files.py; YAML: configs.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from children import commands, prepare, start
from damage import damaged
from safetensors.torch import save_file

from configs import VALUES, inside
from ood_nc.deployment import Detector
from ood_nc.documents import seal
from ood_nc.errors import UserError
from ood_nc.evaluation import Results
from ood_nc.evaluation.feature_sets import open_features
from ood_nc.models import ControlledModel, load_weights
from ood_nc.sealed import read_sealed, write_sealed
from ood_nc.training.checkpoints import load_model

MEMORY = 6 << 30
JSON_VALUES = [v for v in VALUES if not ((isinstance(v, float) and abs(v) > 1e308) or v != v or v == "\ud83d")]
JSON_VALUES += [
    10**400,
    [[[[[[[[[[]]]]]]]]]],
    "x" * 10**6,
    {"tensor": "x"},
    {"pairs": [[1]]},
    {"tuple": []},
    {"float": "nan"},
]


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of nested dicts and lists."""
    found = []
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in keys:
        found += [(*prefix, key), *paths(inner, (*prefix, key))]
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    """A copy of a JSON document with one to three parts replaced, dropped, doubled, renamed or nested."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        known = paths(document)
        if not known:
            return document
        path = rng.choice(known)
        parent, key = inside(document, path[:-1]), path[-1]
        way = rng.choice(("value", "value", "value", "drop", "nest", "copy", "rename"))
        if way == "value":
            parent[key] = copy.deepcopy(rng.choice(JSON_VALUES))
        elif way == "drop":
            del parent[key]
        elif way == "nest":
            for _ in range(rng.choice((1, 3, 200))):
                parent[key] = [parent[key]]
        elif way == "copy":
            parent[key] = copy.deepcopy(inside(document, rng.choice(known)))
        elif isinstance(parent, dict):
            parent[rng.choice(("x", "", "format", "state", "__class__", key + "_"))] = parent.pop(key)
    return document


def reshaped(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """The tensors, one to three of them of another shape, type, name or value, or gone."""
    tensors = dict(tensors)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(tensors)) if tensors else "x"
        tensor = tensors.get(name, torch.zeros(1))
        way = rng.choice(("flat", "empty", "type", "value", "drop", "rename", "wide", "scalar", "add"))
        if way in ("drop", "rename"):
            tensors.pop(name, None)
        if way in ("rename", "add"):
            tensors[rng.choice(("x", "", "a/b/c", "\n", "head.weight", name + ".x"))] = tensor
        other = {
            "flat": lambda t: t.flatten(),
            "empty": lambda t: t[:0] if t.ndim else torch.zeros(0),
            "type": lambda t: t.to(rng.choice((torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64))),
            "value": lambda t: torch.full(t.shape, rng.choice((float("nan"), float("inf"), 1e38, -1.0))),
            "wide": lambda t: torch.cat([t, t], dim=-1) if t.ndim else t,
            "scalar": lambda t: torch.tensor(rng.choice((0.0, -1e30, 2**62))),
        }
        if way in other:
            tensors[name] = other[way](tensor).clone()
    return tensors


def build_once(model: ControlledModel) -> None:
    """Let every file whose specification is not the one that was changed have a copy of its network."""
    build, sound, blank = ControlledModel.from_spec, json.dumps(model.spec()), copy.deepcopy(model)

    def from_spec(spec: Any) -> ControlledModel:
        return copy.deepcopy(blank) if json.dumps(spec) == sound else build(spec)

    ControlledModel.from_spec = from_spec  # type: ignore[method-assign]


Kind = tuple[Callable[[random.Random], None], Callable[[], Any]]


def kinds(folder: Path) -> dict[str, Kind]:
    """By kind: what writes a mutated file, and what reads it."""
    detector, best = folder / "d.safetensors", folder / "run/checkpoints/best.safetensors"
    judge = Detector.load(detector)
    build_once(judge.model)
    image = torch.zeros(1, *judge.model.preprocessing["input_size"])
    sealed = {path: read_sealed(path) for path in (detector, best)}
    state = {key: value.clone() for key, value in judge.model.state_dict().items()}
    document = json.loads((folder / "run/results.json").read_text())
    scores = pq.read_table(folder / "run/scores.parquet")
    features = {"id_train/e": torch.randn(40, 4), "id_test/e": torch.randn(20, 4), "ood/far/e": torch.randn(9, 4)}
    features |= {"id_train/labels": torch.arange(40) % 2, "id_test/labels": torch.arange(20) % 2}
    features |= {"head/weight": torch.randn(2, 4), "head/bias": torch.randn(2)}

    def write(path: Path) -> Callable[[random.Random], None]:
        def anew(rng: random.Random) -> None:
            header, tensors = sealed[path]
            both = rng.random()
            header = mutated(header, rng) if both < 0.8 else header
            write_sealed(folder / "x.safetensors", reshaped(tensors, rng) if both > 0.6 else tensors, header)

        return anew

    def tensors(suffix: str, original: dict[str, torch.Tensor]) -> Callable[[random.Random], None]:
        def anew(rng: random.Random) -> None:
            path = folder / f"x.{suffix}"
            found = {name: value.clone() for name, value in reshaped(original, rng).items()}
            if suffix == "safetensors":
                save_file(found, path)
            elif suffix == "npz":
                np.savez(
                    path, **{f"{name}": value.numpy() for name, value in found.items() if name and "\n" not in name}
                )
            else:
                torch.save(
                    rng.choice((found, {"state_dict": found}, {"model": mutated({"a": [1]}, rng)}, [found])), path
                )
            if rng.random() < 0.5:
                path.write_bytes(damaged(path.read_bytes(), rng))

        return anew

    def results(rng: random.Random) -> None:
        (folder / "run/results.json").write_text(json.dumps(seal(mutated(document, rng))))

    def parquet(rng: random.Random) -> None:
        import hashlib

        column = rng.randrange(scores.num_columns)
        values: list[Any] = [rng.choice((None, "x", "=1", "x" * 1000)) for _ in range(len(scores))]
        table = rng.choice((scores, scores.set_column(column, rng.choice(("x", "")), [pa.array(values, pa.string())])))
        path = folder / "run/scores.parquet"
        pq.write_table(table.slice(0, rng.choice((0, 1, len(table)))), path)
        path.write_bytes(damaged(path.read_bytes(), rng))
        found = {**document, "scores": hashlib.sha256(path.read_bytes()).hexdigest()}
        (folder / "run/results.json").write_text(json.dumps(seal(found)))

    return {
        "detector": (write(detector), lambda: Detector.load(folder / "x.safetensors")(image)),
        "checkpoint": (write(best), lambda: load_model(folder / "x.safetensors")[0].eval()(image)),
        "weights.safetensors": (
            tensors("safetensors", state),
            lambda: load_weights(judge.model, folder / "x.safetensors"),
        ),
        "weights.pt": (tensors("pt", state), lambda: load_weights(judge.model, folder / "x.pt")),
        "features.safetensors": (tensors("safetensors", features), lambda: open_features(folder / "x.safetensors")),
        "features.npz": (tensors("npz", features), lambda: open_features(folder / "x.npz")),
        "results.json": (results, lambda: Results.load(folder / "run")),
        "scores.parquet": (parquet, lambda: Results.load(folder / "run")),
    }


def attack(name: str, kind: Kind, mutations: int, seed: int, seconds: float) -> int:
    """How many mutations of a kind ended otherwise than in one line or a result."""
    write, read = kind
    generator, failures, begin, counts = (
        random.Random(f"{seed} {name}"),
        0,
        time.monotonic(),
        {"works": 0, "refused": 0},
    )
    for number in range(mutations):
        if time.monotonic() - begin > seconds:
            print(f"{name}: stopped after {number} mutations, {seconds:.0f} seconds", flush=True)
            break
        write(generator)
        try:
            read()
            counts["works"] += 1
        except UserError:  # the command line prints it as one line, whatever names it holds
            counts["refused"] += 1
            fault = ""
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:100]} ({where})"
        else:
            fault = ""
        if fault:
            failures += 1
            print(f"{name}, mutation {number}: {fault}", flush=True)
    print(f"{name}: {counts}, {failures} faults in {time.monotonic() - begin:.0f} s", flush=True)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=3000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=900, help="at most, for each kind")
    parser.add_argument("--kinds", nargs="+")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, "score", folder / "said")
        start(commands(folder)["evaluate"], folder / "said").wait()
        known = kinds(folder)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        wanted = given.kinds or list(known)
        return int(sum(attack(kind, known[kind], given.mutations, given.seed, given.seconds) for kind in wanted) > 0)


if __name__ == "__main__":
    sys.exit(main())
