"""Training on graphs, one graph a step, into a run directory; resumed, a run repeats nothing and misses nothing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ood_nc.config import Config, load, unread_keys
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text
from ood_nc.graphs.measurement import collapse_by_layer
from ood_nc.graphs.network import GraphNetwork
from ood_nc.graphs.objective import mean_squared_error
from ood_nc.graphs.sources import BlockSource, FileSource, open_source
from ood_nc.progress import progress
from ood_nc.sealed import read_sealed, write_sealed
from ood_nc.tracking import Tracker, open_trackers
from ood_nc.training.optimization import create_optimizer
from ood_nc.training.run_directory import RunDirectory, check_same, check_start, git_state, versions
from ood_nc.training.seeds import seed_everything

_CURVE_GRAPHS = 10


class GraphTrainer:
    """A network, its optimiser and how far they are.

    Args:
        config: with the section ``graphs``.

    Raises:
        UserError: the configuration asks for a schedule, for another device than the CPU, or for what is not read.
    """

    def __init__(self, config: Config) -> None:
        assert config.graphs is not None
        if config.optim.sched != "none":
            raise UserError("Runs on graphs have a constant learning rate: add --sched none.")
        if config.train.device not in ("auto", "cpu"):
            raise UserError(f"Runs on graphs are made on the CPU: leave out --device {config.train.device}.")
        if unread := unread_keys(config):
            raise UserError(f"A run on graphs does not read {', '.join(unread)}: leave that out.")
        self.config, self.graphs = config, config.graphs
        self.source: BlockSource | FileSource = open_source(config)
        seed_everything(config.train.seed, "network")
        self.network = GraphNetwork(
            self.source.features,
            config.graphs.hidden,
            self.source.classes,
            depth=config.graphs.layers,
            own_weight=config.graphs.own_weight,
        )
        self.optimizer = create_optimizer(self.network, config.optim, global_batch=1)
        self.epoch = 0

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.epoch * self.graphs.train_graphs

    def train_step(self, number: int) -> float:
        """Learn from one graph; its loss before.

        Raises:
            UserError: the loss is not finite.
        """
        sample = self.source.train(number)
        outputs = self.network(sample.graph.x, sample.graph.edge_index)
        loss = mean_squared_error(outputs[sample.nodes], sample.matched(outputs.detach()))
        if not math.isfinite(loss.item()):
            raise UserError(f"The loss is {loss.item()} on graph {number}: lower --lr.")
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.train.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.train.clip_grad)
        self.optimizer.step()
        return loss.item()

    def curve(self) -> dict[str, float]:
        """Collapse of every layer on a few test graphs, named ``collapse/<tap>/<metric>``."""
        found = []
        for number in range(min(_CURVE_GRAPHS, self.graphs.test_graphs)):
            sample = self.source.test(number)
            with torch.no_grad():
                labels = sample.matched(self.network(sample.graph.x, sample.graph.edge_index))
            found.append((sample.graph, labels, sample.nodes))
        measured = collapse_by_layer(self.network, found)
        return {f"collapse/{tap}/{metric}": value.mean for (tap, metric), value in measured.items()}

    def save(self, path: Path) -> None:
        """Write weights and optimiser state, in one file, whole or not at all."""
        tensors: dict[str, Tensor] = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items() if value is not None}
        write_sealed(path, tensors, {"epoch": self.epoch, "data": self.source.fingerprint()})

    def load(self, path: Path) -> None:
        """Go back to what `save` wrote.

        Raises:
            UserError: it learnt from another graph.
        """
        header, tensors = read_sealed(path)
        data = self.source.fingerprint()
        if header.get("data", data) != data:  # a run may have begun before it was kept
            raise UserError(
                "The graph has changed since the run was interrupted: start one under another --experiment."
            )
        self.epoch = header["epoch"]
        network = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith("network/")}
        self.network.load_state_dict({name: value.clone() for name, value in network.items()})
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        for name in [name for name in tensors if name.startswith("optimizer/")]:
            _, number, key = name.split("/")
            optimizer["state"].setdefault(int(number), {})[key] = tensors[name].clone()
        self.optimizer.load_state_dict(optimizer)


def train_graphs(config: Config, *, resume: bool = False) -> GraphTrainer:
    """Train a network on graphs into its run directory.

    Args:
        config: with the section ``graphs``; of the others it heeds output, experiment, optim (without a schedule),
            train.epochs, seed, clip_grad, log_interval and collapse_interval, evaluation.detectors and bootstrap, and
            tracking.
        resume: go on behind the last finished epoch of the run that is there; a CPU run ends with the same weights as
            one that was never interrupted.

    Raises:
        UserError: the directory holds a run (or, with ``resume``, none, or another one); the loss is not finite.
        KeyboardInterrupt: Ctrl-C; its argument says how to go on.
    """
    directory = RunDirectory(config.run_directory)
    weights = directory.checkpoints / "last.safetensors"
    with write_lock(directory.path):
        check_start(directory, resume=resume)
        if resume and directory.config.exists():
            check_same(load(directory.config), config, directory.path)
        trainer = GraphTrainer(config)
        if resume and weights.exists():
            trainer.load(weights)
        _record(directory, config)
        names = ["local", *(["wandb"] if config.tracking.log_wandb else []), *config.tracking.trackers]
        trackers = open_trackers(names, directory.path, config.model_dump(mode="json"), last_step=trainer.step)
        directory.write_status("running", "", {"epoch": trainer.epoch, "step": trainer.step})
        state, reason = "failed", ""
        try:
            _train(trainer, trackers, weights)
            state = "finished"
        except KeyboardInterrupt:
            state, kept = "interrupted", f"{trainer.epoch} of {config.train.epochs} epochs are finished and kept"
            raise KeyboardInterrupt(f"{kept} in {directory.path}: go on with --resume.") from None
        except Exception as error:
            reason = str(error)
            raise
        finally:
            for tracker in trackers:
                tracker.finish({"state": state, "reason": reason})
            directory.write_status(state, reason, {"epoch": trainer.epoch, "step": trainer.step})
    return trainer


def _train(trainer: GraphTrainer, trackers: list[Tracker], weights: Path) -> None:
    train, graphs = trainer.config.train, trainer.graphs.train_graphs

    def log(split: str, step: int, values: Mapping[str, Any]) -> None:
        for tracker in trackers:
            tracker.log({"epoch": step / graphs, "split": split, **values}, step)

    if trainer.epoch == 0 and train.collapse_interval:
        log("collapse", 0, trainer.curve())
    while trainer.epoch < train.epochs:
        losses: list[float] = []
        with progress(f"epoch {trainer.epoch + 1}/{train.epochs}", total=graphs, unit="graphs") as advance:
            for number in range(graphs):
                losses.append(trainer.train_step(number))
                step = trainer.step + number + 1
                if step % train.log_interval == 0:
                    log("train", step, {"loss": sum(losses) / len(losses)})
                    losses = []
                advance(1)
        trainer.epoch += 1
        if train.collapse_interval and trainer.epoch % train.collapse_interval == 0:
            log("collapse", trainer.step, trainer.curve())
        trainer.save(weights)


def _record(directory: RunDirectory, config: Config) -> None:
    write_text(directory.config, config.to_yaml())
    if directory.environment.exists():
        return
    environment = {
        "seed": config.train.seed,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": "cpu",
        "versions": versions(),
        "git": git_state(Path.cwd()),
    }
    write_text(directory.environment, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
