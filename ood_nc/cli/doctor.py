"""``ood-nc doctor``: is this machine fit to run, and if not, what is to be done."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import ood_nc
from ood_nc.cli.command import Command
from ood_nc.cli.show import say
from ood_nc.errors import UserError
from ood_nc.processes import cores

_LEAST_FREE = 2**30
"""Bytes: banks and checkpoints of a small run with room to spare."""


@dataclass(frozen=True)
class Finding:
    """What was found, what of it keeps the package from working, and what merely makes it slower."""

    what: str
    found: str
    trouble: str = ""
    advice: str = ""


def _add_arguments(_: argparse.ArgumentParser) -> None:
    pass


def _execute(_: argparse.Namespace) -> int:
    findings = examine()
    for one in findings:
        say(f"{one.what:<13} {one.found}")
    line, code = verdict(findings)
    print(line)
    return code


def examine() -> list[Finding]:
    """Everything that is looked at, in the order in which it is shown."""
    declared = [Requirement(line) for line in requires("ood_nc") or []]
    return [
        Finding("ood_nc", f"{ood_nc.__version__}, Python {sys.version.split()[0]}, {Path(ood_nc.__file__).parent}"),
        packages(declared),
        extras(declared),
        *devices(),
        neighbours(),
        thread_pools(),
        *(free_disk(what, Path(path)) for what, path in (("disk here", "."), ("disk, tmp", tempfile.gettempdir()))),
    ]


def verdict(findings: Sequence[Finding]) -> tuple[str, int]:
    """One line and the exit code: 0 where everything works, though perhaps slower than it might; else 2."""
    troubles = [one.trouble for one in findings if one.trouble]
    advice = [one.advice for one in findings if one.advice]
    if troubles:
        return f"not ready: {'; '.join([*troubles, *advice])}", 2
    return f"ready{', but: ' if advice else ': '}{'; '.join(advice) or 'ood-nc quickstart is the first command'}", 0


def packages(declared: Sequence[Requirement]) -> Finding:
    """The installed versions of what is always needed; faiss, of which there are two wheels, apart."""
    needed = [one for one in declared if "extra" not in str(one.marker) and not one.name.startswith("faiss")]
    found = {one.name: _installed(one.name) for one in needed}
    wrong = [one for one in needed if not one.specifier.contains(found[one.name] or "0", prereleases=True)]
    shown = ", ".join(f"{name} {number or 'absent'}" for name, number in found.items())
    install = " ".join(f"'{one.name}{one.specifier}'" for one in wrong)
    return Finding("packages", shown, f"pip install {install}" if wrong else "")


def extras(declared: Sequence[Requirement]) -> Finding:
    """Which optional parts have all that they need."""
    names = sorted({str(one.marker).split('"')[1] for one in declared if "extra" in str(one.marker)} - {"dev"})
    parts = {name: [one for one in declared if one.marker and one.marker.evaluate({"extra": name})] for name in names}
    there = [name for name, needed in parts.items() if all(_installed(one.name) for one in needed)]
    absent = [name for name in names if name not in there]
    return Finding("extras", f"{', '.join(there) or 'none'}; absent: {', '.join(absent) or 'none'}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    """The processors that this process may use, and the accelerators."""
    import torch

    from ood_nc.devices import choose_device

    yield Finding("processors", f"{cores()}, torch uses {torch.get_num_threads()}")
    chosen = choose_device("auto")
    shown = chosen.type
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        shown += f"; cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    idle = chosen.type == "cpu" and shutil.which("nvidia-smi") is not None
    advice = f"there is an NVIDIA driver, and torch {torch.__version__} sees no GPU: see pytorch.org for its build"
    yield Finding("device", shown, advice=advice if idle else "")


def neighbours() -> Finding:
    """Which faiss there is, and whether it finds beside torch, in one process, the neighbours that torch finds."""
    import torch

    from ood_nc.detection import faiss_variant
    from ood_nc.detection.kit.faiss_backend import load_faiss

    try:
        variant, faiss = faiss_variant(), load_faiss()
    except UserError as error:
        return Finding("faiss", "does not load", str(error).rstrip("."))
    bank, queries = torch.randn(2, 2048, 16, generator=torch.Generator().manual_seed(0))
    index = faiss.IndexFlatL2(16)
    index.add(bank.numpy())
    found = torch.from_numpy(index.search(queries.numpy(), 5)[0])
    wanted = torch.cdist(queries, bank).topk(5, largest=False).values
    agree = torch.allclose(found.sqrt(), wanted, rtol=1e-3)
    wrong = f"{variant} finds other neighbours than torch: pip install --force-reinstall {variant}"
    return Finding("faiss", f"{variant} {_installed(variant) or ''}".rstrip(), "" if agree else wrong)


def thread_pools() -> Finding:
    """Every OpenMP runtime in this process: torch and faiss each bring their own, and each has its own threads."""
    from threadpoolctl import threadpool_info

    pools = [one for one in threadpool_info() if one["user_api"] == "openmp"]
    shown = ", ".join(f"{_owner(one['filepath'])} ({one['prefix']}) {one['num_threads']}" for one in pools)
    crowded = any(one["num_threads"] > cores() for one in pools)
    mixed = {"libiomp", "libomp"} <= {one["prefix"] for one in pools}
    return Finding(
        "thread pools",
        shown or "none",
        "libomp and libiomp in one process may hang: install torch and faiss both with pip, or both with conda"
        if mixed
        else "",
        f"more threads a pool than processors: export OMP_NUM_THREADS={cores()}" if crowded else "",
    )


def _owner(library: str) -> str:
    """The package whose folder a shared library lies in."""
    parts = Path(library).parts
    after = parts[parts.index("site-packages") + 1] if "site-packages" in parts else parts[-1]
    return after.partition(".")[0]


def free_disk(what: str, folder: Path) -> Finding:
    """Free space at a folder, and whether it can be written to."""
    free = shutil.disk_usage(folder).free
    trouble = "" if free >= _LEAST_FREE else f"{folder.resolve()} has less than 1 GiB free: free some, or go elsewhere"
    if not os.access(folder, os.W_OK):
        trouble = f"{folder.resolve()} cannot be written to: go elsewhere"
    return Finding(what, f"{folder.resolve()}: {free / 2**30:.1f} GiB free", trouble)


COMMAND = Command(
    name="doctor",
    summary="Look at versions, devices, faiss, thread pools and free disk; end in a verdict (exit code 0 or 2).",
    examples="  ood-nc doctor",
    add_arguments=_add_arguments,
    execute=_execute,
)
