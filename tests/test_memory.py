"""How much memory a bank of half-precision features takes beside itself, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc"
    ),
]

_MEASURE = """
import gc, json, sys, warnings
from pathlib import Path
import numpy as np, torch
from ood_nc.detection import TapQueries, TapStatistics, create_feature_detector, list_detectors
from ood_nc.detection.kit import neighbors
from ood_nc.evaluation import evaluate
from ood_nc.transfer import PROBES, _softmax_regression

warnings.simplefilter("ignore")
neighbors.HELD = _softmax_regression.HELD = 0  # as with banks too large to be held in float32
work, rows, dim, classes = Path(sys.argv[1]), 100_000, 256, 10
means = torch.rand(classes, dim, generator=torch.Generator().manual_seed(0))

def made(count, seed):
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(count) % classes
    parts = [means[part] + 0.3 * torch.randn(len(part), dim, generator=generator) for part in labels.split(4096)]
    return torch.cat([part.clamp_min(0).half() for part in parts]), labels

def kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

def growth(call):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = kibibytes("VmRSS")
    call()
    return (kibibytes("VmHWM") - before) * 1024 / (2 * rows * dim)

train, test = made(rows, 1), made(300, 2)
head = (torch.randn(classes, dim), None)

def detector(name):
    statistics = TapStatistics(*train, head=head, held_out=TapStatistics(*test, head=head))
    create_feature_detector(name).fit(statistics).score(TapQueries(test[0], head=head))

detector("mahalanobis")  # what is imported and set up once
found = {name: growth(lambda: detector(name)) for name in list_detectors(kind="feature")}
found |= {f"probe {name}": growth(lambda: PROBES[name](*train, *test)) for name in PROBES}
for name, (features, labels) in {"id_train": train, "id_test": test, "ood/other": test}.items():
    (work / name).mkdir(parents=True)
    np.save(work / name / "encoder.npy", features)
    np.save(work / name / "labels.npy", labels)
del train, features, labels
methods = {"detectors": ["knn", "mahalanobis", "vim", "energy"], "probes": ["linear", "knn", "nearest_mean"]}
found["evaluation"] = growth(lambda: evaluate(features=work, bootstrap=10, **methods))
print(json.dumps(found))
"""

_STANDARDISE = """
from pathlib import Path
import torch
from ood_nc.transfer import _softmax_regression

def kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

rows = torch.cat([torch.randn(4096, 512).half() for _ in range(50)])
labels = torch.arange(len(rows)) % 10
_softmax_regression.standardise(rows[:8192], labels[:8192])
Path("/proc/self/clear_refs").write_text("5")
before = kibibytes("VmRSS")
_softmax_regression.standardise(rows, labels)
print((kibibytes("VmHWM") - before) * 1024 / (2 * rows.numel()))
"""


def test_what_blocks_leave_behind_keeps_no_room_between_them() -> None:
    # With the allocator as it comes: a small tensor a block, each behind the room of a block, kept half of the bank.
    called = [sys.executable, "-c", _STANDARDISE]
    done = subprocess.run(called, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.35


def test_nothing_holds_a_bank_in_float32_once_more(tmp_path: Path) -> None:
    # Memory that is freed must go back at once, or the next measurement would find it there.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    called = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    done = subprocess.run(called, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    # In sizes of the bank, of which blocks are a small part: one would be a copy as it is, two a copy in float32.
    evaluation, keeps_its_bank = found.pop("evaluation"), found.pop("knn")
    assert {name: size for name, size in found.items() if size > 0.95} == {}
    assert keeps_its_bank < 2.5
    # The mapped file that is read, the copy of that detector, and what an evaluation imports.
    assert evaluation < 4
