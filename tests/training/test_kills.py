"""Runs that are killed at random moments: resumed, their weights are those of a run that was left alone, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ood_nc.tracking import read_log

ROOT = Path(__file__).resolve().parents[2]

# Forks each run from one process that has imported everything, and kills all ranks at a random moment of a random step.
KILLS = """
import json, os, random, signal, socket, sys, time
from pathlib import Path
import torch
from ood_nc.config import load
from ood_nc.training import train
from ood_nc.training.setup import Setup

def start(config, rank, world, port, pipe):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        if world > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            os.environ.update({k: str(v) for k, v in ranks.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        rate = Setup.set_learning_rate
        def watched(self, epoch, step):
            if rank == 0 and self.loader is not None:
                os.write(pipe, step.to_bytes(4, "little"))
            return rate(self, epoch, step)
        Setup.set_learning_rate = watched
        train(config, resume=config.run_directory.exists())
        code = 0
    finally:
        os._exit(code)

def attempt(config, world, kill_at, delay):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours, theirs = os.pipe()
    children = [start(config, rank, world, port, theirs) for rank in range(world)]
    os.close(theirs)
    steps = []
    while len(steps) < kill_at and (word := os.read(ours, 4)):
        steps.append(int.from_bytes(word, "little"))
    if len(steps) == kill_at:
        time.sleep(delay)
        for child in children:
            os.kill(child, signal.SIGKILL)
    os.close(ours)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return steps, codes

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
straight, killed, world, kills = load(sys.argv[1]), load(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
generator = random.Random(0)
whole, codes = attempt(straight, world, 10**6, 0)
assert codes == [0] * world, codes
firsts = []
while True:
    kill_at = generator.randint(2, 6) if len(firsts) < kills else 10**6
    steps, codes = attempt(killed, world, kill_at, generator.random() * 0.03)
    firsts.append(steps[0])
    if codes == [0] * world:
        break
    assert codes == [-signal.SIGKILL] * world, codes
print(json.dumps({"firsts": firsts, "whole": whole}))
"""

SETTINGS = {
    "control": [{"tap": "encoder", "metric": "nc1", "target": 5.0}],
    "model.name": "test_resnet",
    "model.drop": 0.2,
    "augment.reprob": 0.5,
    "data.limit": 60,
    "train.epochs": 4,
    "train.batch_size": 8,
    "train.grad_accum_steps": 2,
    "train.model_ema": True,
    "train.model_ema_decay": 0.9,
    "train.track_interval": 5,
    "train.log_interval": 3,
    "train.recovery_interval": 1,
}


@pytest.mark.parametrize(
    ("processes", "kills"),
    [pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 3), (1, 20), (2, 5))],
)
def test_killed_at_random_moments_a_run_ends_with_the_same_bits(small, tmp_path, processes, kills):
    configs = [small(name, **SETTINGS) for name in ("straight", "killed")]
    paths = [tmp_path / f"{config.experiment}.yaml" for config in configs]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(config.to_yaml())
    words = [sys.executable, "-c", KILLS, *map(str, paths), str(processes), str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    per_epoch = (max(found["whole"]) + 1) // 4
    assert sum(first % per_epoch > 0 for first in found["firsts"]) >= kills // 2  # it did go on within epochs
    straight, killed = (config.run_directory for config in configs)
    for which in ("last", "best"):
        first, second = (load_file(folder / "checkpoints" / f"{which}.safetensors") for folder in (straight, killed))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert numbers(straight) == numbers(killed)


def numbers(directory):
    """The log without what a clock decides."""
    lines = read_log(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
