"""Weights shared out over processes: the same run, a share of its memory, the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from ood_nc.config import OptimConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.tracking import read_log
from ood_nc.training import train
from ood_nc.training.checkpoints import STATE, load_model
from ood_nc.training.launch import leave_group
from ood_nc.training.sharding import check_optimizer, shard
from tests.helpers.trained import equal, weights

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch cannot shard on a processor"
)

# Forks the processes of one run after another from one that has imported everything. Each leaves what it held after
# every epoch, and says whether a number that is none in the last process is seen by all.
RUNS = """
import json, os, socket, sys, traceback
import torch
from ood_nc.config import load
from ood_nc.training import loop, train
from ood_nc.training.measurement import StepAverages
from ood_nc.training.sharding import local

def spy(facts, stop):
    keep, add, batches = loop.keep, StepAverages.add, []
    def keeping(setup, before, folder, scores):
        after = keep(setup, before, folder, scores)
        weights = list(setup.model.parameters())
        learned = [weight for weight in weights if weight.requires_grad]
        moments = [value for state in setup.optimizer.state.values() for value in state.values() if value.ndim]
        facts["sharded"] = setup.sharded
        facts["weights"] = sum(local(w).numel() for w in weights) / sum(w.numel() for w in weights)
        facts["moments"] = sum(local(m).numel() for m in moments) / sum(w.numel() for w in learned)
        facts["scores"] = scores
        facts["finite"] = [setup.is_finite()]
        if setup.sharded and after.epoch == setup.config.train.epochs:
            if setup.accelerator.process_index == setup.accelerator.num_processes - 1:
                with torch.no_grad():
                    next(local(w) for w in weights if local(w).numel()).fill_(torch.nan)
            facts["finite"].append(setup.is_finite())
        return after
    def adding(self, *arguments):
        add(self, *arguments)
        batches.append(1)
        if len(batches) == stop:
            raise KeyboardInterrupt
    loop.keep, StepAverages.add = keeping, adding

def rank_of_run(run, rank, world, port):
    facts, code = {}, 1
    try:
        torch.set_num_threads(1)
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({k: str(v) for k, v in ranks.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        spy(facts, run["stop"])
        train(load(run["path"]), resume=run["resume"])
        code = 0
    except KeyboardInterrupt:
        code = 0 if run["stop"] else 1
    except BaseException as error:
        traceback.print_exc()
    finally:
        with open(f"{run['path']}.{rank}.json", "w") as file:
            json.dump(facts, file)
        sys.stderr.flush()
        os._exit(code)

for run in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(run["world"]):
        child = os.fork()
        if not child:
            rank_of_run(run, rank, run["world"], port)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(f"{run} failed")
"""


@pytest.fixture
def launch(tmp_path):
    """Runs configurations one after another, each in processes of its own; returns what each process held."""

    def run(*configs, world=2, resume=False, stop=None):
        runs = []
        for config in configs:
            path = tmp_path / f"{config.experiment}.yaml"
            path.write_text(config.to_yaml())
            runs.append({"path": str(path), "world": world, "resume": resume, "stop": stop})
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", RUNS, json.dumps(runs)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-9000:]
        return [[json.loads(Path(f"{one['path']}.{rank}.json").read_text()) for rank in range(world)] for one in runs]

    return run


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def distance(first, second):
    return sum(float((first[name] - second[name]).float().square().sum()) for name in first) ** 0.5


def training_state(directory):
    return torch.load(directory / "checkpoints" / STATE, weights_only=True)


SGD = {"optim.opt": "sgd", "optim.lr": 0.05, "train.clip_grad": 0.5, "data.limit": 11}
SETTINGS = {
    "entropy, controller, frozen weights": {
        "loss.entropy_weight": {"projector": 0.1},
        "control": [{"tap": "encoder", "metric": "nc1", "target": 2.0}],
        "model.freeze": ["backbone.blocks.0.*"],
        "train.collapse_interval": 1,
    },
    "batch norm, losses of heads, joint accumulation": {
        "model.name": "test_resnet",
        "model.taps": ["stages", "encoder", "projector"],
        "model.auxiliary": ["layer3"],
        "loss.terms": [{"name": "deep_supervision", "tap": "layer3", "weight": 0.3}],
        "train.batch_size": 8,
        "train.grad_accum_steps": 2,
        "train.grad_accum_joint": True,
        "train.epochs": 1,  # batch norm of few images makes much of rounding
        "optim.lr": 0.01,
    },
    "accumulation": {"train.batch_size": 8, "train.grad_accum_steps": 2, "train.epochs": 1},
    "weights that no loss reads": {
        "loss.task": "none",
        "loss.terms": [{"name": "supervised_contrastive", "tap": "encoder", "weight": 0.1}],
        "loss.entropy_weight": 0.0,
        "model.projector.kind": "plastic",
        "optim.weight_decay": 0.5,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_sharded_run_is_the_run(small, launch, settings):
    whole, sharded = (small(name, **{**SGD, **settings, "train.shard": name == "shard"}) for name in ("ddp", "shard"))
    by_run = launch(whole, sharded)
    assert [rank["sharded"] for ranks in by_run for rank in ranks] == [False, False, True, True]
    assert [rank["finite"] for rank in by_run[1]] == [[True, False]] * 2, "a number that is none in one process"
    for ranks in by_run:
        assert ranks[0]["scores"] == ranks[1]["scores"]
    assert by_run[0][0]["scores"] == pytest.approx(by_run[1][0]["scores"], abs=1e-5)
    for name in ("last", "best"):
        first, second = weights(whole.run_directory, name), weights(sharded.run_directory, name)
        assert largest_difference(first, second) < 1e-5
    logs = [[line.keys() for line in read_log(run.run_directory / "metrics.jsonl")] for run in (whole, sharded)]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit_sharded_and_to_rounding_whole(small, launch):
    settings = {"data.limit": 11, "train.recovery_interval": 2, "train.shard": True, "loss.entropy_weight": 0.1}
    settings |= {"control": [{"tap": "projector", "metric": "nc1", "target": 2.0}], "model.drop": 0.1}
    straight, stopped, whole = (small(name, **settings) for name in ("straight", "stopped", "whole"))
    ((first, second),) = launch(straight)
    for share in ("weights", "moments"):
        factor = 1 if share == "weights" else 2  # AdamW has two
        assert 0.49 * factor < second[share] <= first[share] < 0.52 * factor
        assert first[share] + second[share] == pytest.approx(factor)
    launch(stopped, whole, stop=5)
    launch(stopped, resume=True)
    launch(whole.model_copy(update={"train": whole.train.model_copy(update={"shard": False})}), resume=True)
    for name in ("last", "best"):
        assert equal(weights(straight.run_directory, name), weights(stopped.run_directory, name))
        assert largest_difference(weights(straight.run_directory, name), weights(whole.run_directory, name)) < 1e-3
    states = [training_state(run.run_directory)["optimizer"]["state"] for run in (straight, stopped)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert type(state["exp_avg"]) is torch.Tensor and equal(state, states[1][number])
    model, facts = load_model(stopped.run_directory / "checkpoints" / "best.safetensors")
    assert equal(model.state_dict(), weights(stopped.run_directory, "best")) and facts["epoch"] in (1, 2)


@pytest.mark.slow
def test_half_precision_is_that_of_the_run(small, launch):
    settings = {**SGD, "train.amp": True, "train.amp_dtype": "bfloat16"}
    whole, sharded = (small(name, **settings, **{"train.shard": name == "shard"}) for name in ("ddp", "shard"))
    launch(whole, sharded, single := small("single", **SGD))
    half, shared, full = (weights(run.run_directory) for run in (whole, sharded, single))
    # A last digit of a sum decides here and there how eight bits are rounded, which is far less than rounding to them.
    assert distance(half, shared) < 0.5 * min(distance(half, full), distance(shared, full))


def test_one_process_has_nothing_to_shard(small, caplog):
    settings = {"train.epochs": 1, "data.limit": 3}
    whole, sharded = train(small("whole", **settings)), train(small("shard", **settings, **{"train.shard": True}))
    assert "one process holds everything" in caplog.text
    assert equal(weights(whole), weights(sharded))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.model_ema": True}, "together with train.model_ema"),
        ({"train.torchcompile": True}, "together with train.torchcompile"),
        ({"train.channels_last": True}, "together with train.channels_last"),
        ({"train.amp": True}, "bfloat16"),
        ({"intermediate": {"epochs": [1]}}, "use one of them"),
    ],
)
def test_what_cannot_be_had_with_it_is_one_line(small, settings, message):
    with pytest.raises(UserError, match=message) as error:
        small(**settings, **{"train.shard": True})
    assert "\n" not in str(error.value)
    small(**settings)


@pytest.fixture
def alone():
    """A group of this process alone: what it forwards is put together as by several."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield torch.device("cpu")
    leave_group()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet_gn", "convnet6"])
def test_blocks_of_every_family_are_put_together_where_they_run(alone, name):
    torch.manual_seed(0)
    plain = ControlledModel(name, 5, taps=("stages", "encoder", "projector"))
    sharded = ControlledModel.from_spec(plain.spec())
    sharded.load_state_dict(plain.state_dict())
    shard(sharded, alone, 1)
    assert sum(isinstance(module, FSDPModule) for module in sharded.modules()) > 4
    images = torch.randn(2, *plain.preprocessing["input_size"])
    both = [model.eval().forward_taps(images) for model in (plain, sharded)]
    for logits, taps in both:
        (logits.square().sum() + sum(tap.square().sum() for tap in taps.values())).backward()
    assert torch.equal(both[0][0], both[1][0])
    gradients = [{name: weight.grad for name, weight in model.named_parameters()} for model in (plain, sharded)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name].full_tensor(), atol=1e-5), name


def test_a_network_of_weights_that_blocks_share_is_refused_in_one_line(alone):
    with pytest.raises(UserError, match=r"coat_tiny cannot be sharded .*: leave train\.shard out"):
        shard(ControlledModel("coat_tiny", 5), alone, 1)


def test_optimisers_that_work_on_shards_and_those_that_do_not(alone):
    before = torch.get_rng_state()
    for name in ("adamw", "sgd", "lamb", "lion", "lookahead_adamw"):
        check_optimizer(OptimConfig(opt=name, layer_decay=0.9), alone, 1)
    for name in ("cadamw", "adafactor"):
        with pytest.raises(UserError, match=f"optim.opt '{name}' does not take the same steps on shards"):
            check_optimizer(OptimConfig(opt=name), alone, 1)
    assert torch.equal(before, torch.get_rng_state())
