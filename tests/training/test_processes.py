"""Runs in processes of their own: killed ones, and several at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ood_nc.models import build_model
from ood_nc.tracking import read_log
from ood_nc.training import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import sys
from ood_nc.config import load
from ood_nc.training import train
train(load(sys.argv[1]), resume="--resume" in sys.argv)
"""

# Each process also leaves the hash of its own weights and the buffers it ended with.
TRAIN_RANK = """
import os, sys
from ood_nc.config import load
from ood_nc.models import weights_hash
from ood_nc.training import loop
keep = loop.keep
def spying(setup, before, folder, accuracy):
    rank = os.environ["RANK"]
    with open(f"{sys.argv[1]}.rank{rank}", "a") as file:
        print(weights_hash(setup.model), setup.accelerator.num_processes, accuracy, file=file)
    return keep(setup, before, folder, accuracy)
loop.keep = spying
loop.train(load(sys.argv[1]))
"""


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def write_config(tmp_path, config):
    path = tmp_path / f"{config.experiment}.yaml"
    path.write_text(config.to_yaml())
    return str(path)


def steps_logged(directory):
    path = directory / "metrics.jsonl"
    return read_log(path)[-1]["step"] if path.exists() and read_log(path) else 0


def test_killed_in_the_third_epoch_and_resumed(small, tmp_path):
    settings = {
        "train.epochs": 4,
        "train.log_interval": 1,
        "model.drop": 0.1,
        "augment.reprob": 0.5,
        "data.limit": 60,
        "train.workers": 1,
    }
    straight = train(small("straight", **settings))
    per_epoch = steps_logged(straight) // 4
    killed = small("killed", **settings)
    path = write_config(tmp_path, killed)
    process = subprocess.Popen([sys.executable, "-c", TRAIN, path], env=environment(), start_new_session=True)
    deadline = time.monotonic() + 120
    while steps_logged(killed.run_directory) < 2 * per_epoch + 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert steps_logged(killed.run_directory) < 4 * per_epoch
    subprocess.run([sys.executable, "-c", TRAIN, path, "--resume"], env=environment(), check=True)
    first, second = (load_file(d / "checkpoints" / "last.safetensors") for d in (straight, killed.run_directory))
    assert all(torch.equal(first[name], second[name]) for name in first)
    keys = [(line["split"], line["step"]) for line in read_log(killed.run_directory / "metrics.jsonl")]
    assert keys == [(line["split"], line["step"]) for line in read_log(straight / "metrics.jsonl")]
    assert len(keys) == len(set(keys))


def launch(processes, path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        ranks |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", TRAIN_RANK, path]
        workers.append(subprocess.Popen(command, env=environment(**ranks), stderr=subprocess.PIPE, text=True))
    outputs = [worker.communicate(timeout=300)[1] for worker in workers]
    return [worker.returncode for worker in workers], outputs


@pytest.mark.parametrize("scope", ["global", "device"])
def test_two_processes_train_one_model(small, tmp_path, scope):
    # Left to itself, Accelerate starts two separate runs where "auto" finds no GPU.
    device = "cpu" if torch.cuda.is_available() else "auto"
    settings = {"optim.opt": "sgd", "optim.lr": 0.05, "loss.entropy_weight": 0.1, "loss.entropy_scope": scope}
    settings |= {"train.collapse_interval": 1, "data.limit": 21}
    two = small("two", **settings, **{"train.device": device})
    codes, outputs = launch(2, write_config(tmp_path, two))
    assert codes == [0, 0], outputs
    ranks = [Path(f"{tmp_path / 'two.yaml'}.rank{rank}").read_text() for rank in (0, 1)]
    assert ranks[0] == ranks[1] and len(ranks[0].splitlines()) == 2
    assert all(line.split()[1] == "2" for line in ranks[0].splitlines())
    lines = read_log(two.run_directory / "metrics.jsonl")
    keys = [(line["split"], line["step"]) for line in lines]
    assert len(keys) == len(set(keys))
    environment = json.loads((two.run_directory / "environment.json").read_text())
    assert (environment["processes"], environment["images_per_step"], environment["learning_rate"]) == (2, 16, 0.05)

    one = train(small("one", **settings))
    first, second = (load_file(d / "checkpoints" / "last.safetensors") for d in (one, two.run_directory))
    difference = max(float((first[name] - second[name]).abs().max()) for name in first)
    expected = read_log(one / "metrics.jsonl")
    if scope == "global":
        assert difference < 1e-4
        assert [line["split"] for line in lines] == [line["split"] for line in expected]
        for mine, theirs in zip(lines, expected, strict=True):
            if mine["split"] == "train":
                assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
            if mine["split"] == "val":
                assert mine["accuracy"] == theirs["accuracy"]
    else:
        assert difference > 1e-3  # neighbours among half of the batch are others


def two_ranks(tmp_path, config):
    """The lines that each of two processes left; both end well."""
    codes, outputs = launch(2, write_config(tmp_path, config))
    assert codes == [0, 0], outputs
    return [Path(f"{tmp_path / config.experiment}.yaml.rank{rank}").read_text() for rank in (0, 1)]


UNREAD = {
    "loss.task": "none",
    "loss.terms": [{"name": "supervised_contrastive", "tap": "encoder", "weight": 1.0}],
    "loss.entropy_weight": 0.0,
    "model.auxiliary": ["encoder"],
    "model.projector.kind": "plastic",
}


@pytest.mark.parametrize("joint", [False, True])
def test_weights_that_no_term_reads_are_waited_for_by_nobody(small, tmp_path, joint):
    """A contrastive term of the encoder alone leaves head and projector without a gradient, on which the run died."""
    settings = {**UNREAD, "train.grad_accum_joint": joint, "train.grad_accum_steps": 2}
    first, second = two_ranks(tmp_path, small("unread", **settings))
    assert first == second and len(first.splitlines()) == 2


@pytest.mark.parametrize("joint", [False, True])
def test_weights_that_no_term_reads_stay_as_they_were(small, tmp_path, joint):
    """They decayed, as no gradient was one of zeros."""
    settings = {**UNREAD, "optim.weight_decay": 1.0, "optim.lr": 0.01, "train.grad_accum_joint": joint}
    settings |= {"train.grad_accum_steps": 2, "train.batch_size": 8}
    one, two = small("one", **settings), small("two", **settings)
    two_ranks(tmp_path, two)
    first, second = (load_file(d / "checkpoints" / "last.safetensors") for d in (train(one), two.run_directory))
    behind = [name for name in first if not name.startswith("backbone.")]
    assert {name.partition(".")[0] for name in behind} == {"projector", "head", "auxiliary"}
    assert all(torch.equal(first[name], second[name]) for name in behind)
    assert not torch.equal(first["backbone.patch_embed.proj.weight"], second["backbone.patch_embed.proj.weight"])
    fresh = build_model(one.model, 5).head_weight.detach().std()
    assert float(first["head.weight"].std() / fresh) == pytest.approx(1, abs=0.2), "nor do they in one process"


def test_processes_validate_terms_together_though_one_has_an_image_less(small, tmp_path):
    """17 images in batches of 8: the second process asked no neighbours for its last batch, and the first died."""
    terms = [{"name": "logit_norm", "tap": "encoder", "weight": 1.0}]
    settings = {"loss.task": "none", "loss.terms": terms, "data.val_fraction": 0.17, "train.epochs": 1}
    first, second = two_ranks(tmp_path, small("terms", **settings))
    assert first == second and len(first.splitlines()) == 1


def test_two_processes_accumulate_what_one_sees_at_once(small, tmp_path):
    settings = {"optim.opt": "sgd", "optim.lr": 0.05, "loss.entropy_weight": 0.5, "data.limit": 21, "train.epochs": 1}
    halved = {"train.batch_size": 8, "train.grad_accum_steps": 2, "train.grad_accum_joint": True}
    two = small("two", **settings, **halved)
    codes, outputs = launch(2, write_config(tmp_path, two))
    assert codes == [0, 0], outputs
    one = train(small("one", **settings))
    first, second = (load_file(d / "checkpoints" / "last.safetensors") for d in (one, two.run_directory))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


def test_batch_statistics_are_one_over_the_processes(small, tmp_path):
    config = small("bn", **{"model.name": "test_resnet", "train.batch_size": 8, "augment.aug_repeats": 3})
    codes, outputs = launch(2, write_config(tmp_path, config))
    assert codes == [0, 0], outputs
    ranks = [Path(f"{tmp_path / 'bn.yaml'}.rank{rank}").read_text() for rank in (0, 1)]
    assert ranks[0] == ranks[1]


def test_a_mistake_is_one_line_in_every_process(small, tmp_path):
    train(small("there", **{"train.epochs": 1}))
    codes, outputs = launch(2, write_config(tmp_path, small("there", **{"train.epochs": 1})))
    assert codes == [1, 1]
    assert all("UserError" in output and "already holds a run" in output.splitlines()[-1] for output in outputs)


def test_a_compiled_model_trains_the_same(small):
    settings = {"optim.opt": "sgd", "optim.lr": 0.01, "train.epochs": 1}
    plain = train(small("plain", **settings))
    compiled = train(small("compiled", **settings, **{"train.torchcompile": True}))
    first, second = (load_file(d / "checkpoints" / "last.safetensors") for d in (plain, compiled))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
