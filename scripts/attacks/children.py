"""Commands as processes of their own, forked from one that has imported everything: each starts within milliseconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow.parquet as pq
import torch
from PIL import Image

import ood_nc.deployment
import ood_nc.evaluation
import ood_nc.report
import ood_nc.training  # noqa: F401  imported once, here
from ood_nc.cli import main
from ood_nc.data import open_dataset
from ood_nc.sealed import read_sealed

SMALL = [
    *("--model", "test_vit", "--img-size", "32", "--limit", "20", "--eval-limit", "40", "-j", "0", "--device", "cpu"),
    *("--epochs", "2", "--batch-size", "16", "--taps", "encoder,projector", "--log-interval", "2"),
    *("--detectors", "energy", "--probes", "nearest_mean", "--bootstrap", "20", "--quiet"),
]


@dataclass
class Child:
    """A command that runs, and the file of what it says."""

    pid: int
    said: Path

    def wait(self) -> tuple[int, str]:
        """Its exit code (minus the signal that killed it), and what it said to standard error."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, self.said.read_text().strip()

    def ended(self) -> bool:
        """Whether it has come to its end by itself."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def start(command: Sequence[str], said: Path, variables: Mapping[str, str] = MappingProxyType({})) -> Child:
    """Start ``ood-nc`` with these words, and these variables in its environment."""
    said.touch()
    pid = os.fork()
    if pid:
        return Child(pid, said)
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(variables)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(said, os.O_WRONLY | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr, sys.stdout = os.fdopen(2, "w", buffering=1), os.fdopen(1, "w")
        code = main(list(command))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def commands(folder: Path) -> dict[str, list[str]]:
    """What is attacked, by name, in the order in which each finds what it needs."""
    run, scores, device = str(folder / "run"), str(folder / "s.parquet"), ("--device", "cpu")
    return {
        "train": ["train", *SMALL, "--output", str(folder), "--experiment", "run"],
        "evaluate": ["evaluate", run, *device],
        "fit": ["fit", run, "--detector", "energy", "--detector", "knn", *device, "-o", str(folder / "d.safetensors")],
        "score": ["score", str(folder / "d.safetensors"), str(folder / "images"), *device, "-b", "4", "-o", scores],
        "fit one": ["fit", run, "--detector", "energy", *device, "-o", str(folder / "one.safetensors")],
        "export": ["export", str(folder / "one.safetensors"), "-o", str(folder / "one.pt2")],
    }


def prepare(folder: Path, name: str, said: Path) -> None:
    """Make in ``folder`` what the command of this name needs."""
    write_images(folder / "images", 200 if name == "score" else 4)
    for before, words in commands(folder).items():
        if before == name:
            return
        if before != "evaluate":
            code, text = start(words, said).wait()
            if code:
                raise SystemExit(f"{before} fails: {text}")


def write_images(folder: Path, n: int) -> None:
    """Some images to score."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("bundled/digits-near")
    for index in range(n):
        image = dataset.load(index % len(dataset))
        assert isinstance(image, Image.Image)
        image.save(folder / f"{index:03d}.png")


def kept(folder: Path) -> dict[str, object]:
    """What the commands leave that no clock decides."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if "features" in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else b""
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found["log"] = [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]
        elif path.name == "results.json":
            rows = json.loads(path.read_text())["rows"]
            found["rows"] = [row for row in rows if row["metric"] != "seconds"]
        elif path.suffix == ".safetensors" and path.parent.name == "checkpoints":
            content = path.read_bytes()
            found[path.name] = content[8 + int.from_bytes(content[:8], "little") :]  # the header names each writing
        elif path.suffix == ".safetensors":
            content = path.read_bytes()  # safetensors puts the entries of its header in any order
            tensors = content[8 + int.from_bytes(content[:8], "little") :]
            found[path.name] = (read_sealed(path, with_tensors=False)[0], tensors)
        elif path.name == "s.parquet":
            table = pq.read_table(path).to_pydict()
            found["scores"] = {**table, "id": [Path(name).name for name in table["id"]]}
        elif path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                found[path.name] = sorted(member.file_size for member in archive.infolist())
    return found


def left_over(folder: Path) -> list[str]:
    """Locks, temporary files and parts."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".parts"]
