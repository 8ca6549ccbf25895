"""Statistics reduced over real processes equal those of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ood_nc.collapse import METRICS, ClassStatistics, measure

WORKER = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from ood_nc.collapse import ClassStatistics, CollapseTracker
from ood_nc.training.launch import leave_group

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
data = np.load(f"{folder}/data.npz")
mine = slice(rank, None, world)
stats = ClassStatistics(int(data["classes"]), data["h"].shape[1])
for part in np.array_split(np.arange(len(data["y"]))[mine], 3):
    stats.update(data["h"][part], data["y"][part])
torch.save(stats.all_reduce().state_dict(), f"{folder}/state{rank}.pt")
tracker = CollapseTracker(int(data["classes"]), interval=1, window=1)
point = tracker.step({"a": torch.from_numpy(data["h"][mine])}, torch.from_numpy(data["y"][mine]))
torch.save(point, f"{folder}/point{rank}.pt")
leave_group()
"""


@pytest.mark.parametrize("world", [1, *(pytest.param(world, marks=pytest.mark.slow) for world in (2, 4))])
def test_processes_agree_with_one_process(tmp_path: Path, world: int) -> None:
    rng = np.random.default_rng(world)
    # Class 5 is empty and class 4 lives in one process alone.
    labels = rng.integers(0, 4, 400)
    labels[0] = 4
    features = 1e4 + rng.normal(size=(6, 12))[labels] + 0.5 * rng.normal(size=(400, 12))
    np.savez(tmp_path / "data.npz", h=features, y=labels, classes=6)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(world), str(tmp_path)]) for rank in range(world)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * world
    whole = ClassStatistics(6, 12).update(features, labels)
    expected = measure(whole).to_dict()
    for rank in range(world):
        stats = ClassStatistics.from_state_dict(torch.load(tmp_path / f"state{rank}.pt", weights_only=True))
        assert stats.num_samples == 400
        assert torch.equal(stats.counts, whole.counts)
        found = measure(stats).to_dict()
        for name in METRICS:
            assert found[name] == (None if expected[name] is None else pytest.approx(expected[name], rel=1e-10)), name
        point = torch.load(tmp_path / f"point{rank}.pt", weights_only=True)["a"]
        assert point["nc1_ratio"] == pytest.approx(expected["nc1_ratio"], rel=1e-10)
