"""The training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list

from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text
from ood_nc.progress import progress
from ood_nc.stopping import deferred_termination, termination_interrupts
from ood_nc.tracking import TRACKERS, Tracker, open_trackers
from ood_nc.training.checkpoints import read_last, settle
from ood_nc.training.control import SAMPLE
from ood_nc.training.launch import accelerator_for, ignored_variables
from ood_nc.training.measurement import diverged, measure_collapse, measure_layer_inputs, sample_taps, validate
from ood_nc.training.run_directory import RunDirectory, check_same, check_start, record_start
from ood_nc.training.setup import Setup, prepare
from ood_nc.training.standing import Standing, is_over, keep, restore, save
from ood_nc.training.steps import take_turn

logger = logging.getLogger(__name__)

Log: TypeAlias = Callable[[str, int, Mapping[str, float | None]], None]
"""Takes the split, the step and the numbers of one line."""

_ASKED = 8
"""Steps between two questions to the other processes for a signal: each is a reduction that the device waits for."""


def train(config: Config, *, resume: bool = False, trackers: Sequence[Tracker] = ()) -> Path:
    """Train one model into its run directory.

    After every epoch the validation split is measured and a checkpoint written; within one a checkpoint is written
    every ``train.recovery_interval`` steps, and on SIGTERM before the run ends. Resumed, a run goes on at the step of
    its last checkpoint with the same images, transforms and random numbers: on a CPU its weights equal those of a run
    that was never interrupted. Under ``torchrun`` or ``accelerate launch`` every process calls this function, and a
    SIGTERM to one of them is one to all.

    Args:
        config: the whole configuration.
        resume: go on with the run that ``config.run_directory`` holds. A finished run is left as it is, but for what
            its config.yaml says of measurements to come.
        trackers: further receivers of the run's numbers, beside those that the configuration names.

    Returns:
        The run directory.

    Raises:
        UserError: the configuration asks for what is not there, the directory holds a run (or, with ``resume``, none,
            or one that was configured differently), another process trains in it, the loss is not finite, or a file
            cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its argument says how to go on.
    """
    directory, names, ignored = RunDirectory(config.run_directory), _tracker_names(config), ignored_variables()
    with termination_interrupts(), accelerator_for(config.train) as accelerator, ExitStack() as lock:
        _on_main(accelerator, lambda: _open(directory, lock, resume=resume))
        last = _last_of_this_run(directory, config) if resume else None
        if last is not None and is_over(last[1]["epoch"], last[1]["best_epoch"], config.train):
            if accelerator.is_main_process:
                _leave_finished(directory, config, epochs=last[1]["epoch"])
            return directory.path
        setup = prepare(config, accelerator, from_checkpoint=last is not None)
        standing = Standing() if last is None else restore(setup, *last)
        if last is not None and accelerator.is_main_process:
            _say_what_the_rate_does(setup, standing, last[1]["config"]["train"]["epochs"])
        _on_main(accelerator, lambda: record_start(directory, setup, ignored))
        opened: list[Tracker] = []
        if accelerator.is_main_process:
            settings = config.model_dump(mode="json")
            opened = open_trackers([*names, *trackers], directory.path, settings, last_step=standing.step)
            directory.write_status("running", "", asdict(standing))
        state, reason = "failed", ""
        try:
            with deferred_termination() as came:
                while not is_over(standing.epoch, standing.best_epoch, config.train):
                    standing = _epoch(setup, standing, directory, opened, came)
                    over = is_over(standing.epoch, standing.best_epoch, config.train)
                    if not over and _anywhere(came, accelerator):
                        raise KeyboardInterrupt
            state = "finished"
            if standing.epoch < config.train.epochs and accelerator.is_main_process:
                logger.warning("No better epoch since epoch %d: stopped (train.patience).", standing.best_epoch)
            for line in () if setup.control is None or not accelerator.is_main_process else setup.control.outcome():
                logger.warning("%s", line)
        except KeyboardInterrupt:
            state = "interrupted"
            kept = f"{_how_far(setup, standing)} are finished and kept in {directory.path}"
            raise KeyboardInterrupt(f"{kept}: go on with --resume.") from None
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise
        finally:
            best = {"best_accuracy": standing.best_accuracy, "best_epoch": standing.best_epoch}
            for tracker in opened:
                tracker.finish({**best, "state": state, "reason": reason})
            if accelerator.is_main_process:
                with nullcontext() if state == "finished" else suppress(UserError):  # the disk may be full
                    directory.write_status(state, reason, asdict(standing))
    return directory.path


def _last_of_this_run(directory: RunDirectory, config: Config) -> tuple[Path, dict[str, Any]] | None:
    """What `read_last` finds, where it is of a run that was configured so."""
    last = read_last(directory.checkpoints)
    if last is not None:  # the state knows its configuration; config.yaml may have been edited
        check_same(Config.model_validate(last[1]["config"]), config, directory.path)
    elif directory.config.exists():
        check_same(load(directory.config), config, directory.path)
    return last


def _leave_finished(directory: RunDirectory, config: Config, *, epochs: int) -> None:
    logger.warning("%s is finished (%d epochs): nothing to do.", directory.path, epochs)
    # It may be measured otherwise now; a file that says the same stays the user's.
    if not directory.config.exists() or load(directory.config) != config:
        write_text(directory.config, config.to_yaml())


def _how_far(setup: Setup, standing: Standing) -> str:
    """The epochs that are finished, and the steps of the next one."""
    epochs = f"{standing.epoch} of {setup.config.train.epochs} epochs"
    steps = standing.step - standing.epoch * setup.steps_per_epoch
    return f"{epochs} and {steps} steps" if steps > 0 else epochs


def _say_what_the_rate_does(setup: Setup, standing: Standing, epochs: int) -> None:
    """A longer run lays its schedule over the new length: it goes on as one of that length, with no restart."""
    longer = setup.config.train.epochs
    if longer != epochs and setup.scheduler is not None:
        before = max(float(group["lr"]) for group in setup.optimizer.param_groups)
        after = setup.set_learning_rate(standing.epoch, standing.step)
        logger.warning(
            "%d epochs become %d: the schedule is laid over all %d anew, so the learning rate goes on at %.3g (it was "
            "%.3g in epoch %d).", epochs, longer, longer, after, before, standing.epoch,
        )  # fmt: skip


def _open(directory: RunDirectory, lock: ExitStack, *, resume: bool) -> None:
    lock.enter_context(write_lock(directory.path))
    check_start(directory, resume=resume)
    settle(directory.checkpoints)


def _epoch(
    setup: Setup, standing: Standing, directory: RunDirectory, trackers: list[Tracker], came: list[int]
) -> Standing:
    """Train, measure and keep one epoch; where a signal came, only train and keep what was begun of it."""
    train, accelerator = setup.config.train, setup.accelerator

    def log(split: str, step: int, values: Mapping[str, float | None]) -> None:
        for tracker in trackers:
            tracker.log({"epoch": step / setup.steps_per_epoch, "split": split, **values}, step)

    begun = _train_epoch(setup, standing, directory, log, came)
    if begun.step < (standing.epoch + 1) * setup.steps_per_epoch:
        return begun
    setup.tracker = None  # its curve is of one epoch
    if accelerator.num_processes > 1:
        for model in dict.fromkeys((setup.model, setup.measured)):
            for buffer in model.buffers():  # batch statistics differ by the images that each process has seen
                broadcast(buffer)
    step = begun.step
    sizes = {"batch_size": int(setup.loader.batch_size or 1), "workers": train.workers}
    scores = validate(setup.measured, setup.val, setup.objective, accelerator, **sizes)
    if not math.isfinite(scores["loss"]):  # the last step of an epoch can spoil the weights behind a finite loss
        raise diverged(scores["loss"], step)
    log("val", step, scores)
    due = train.collapse_interval > 0 and (standing.epoch + 1) % train.collapse_interval == 0
    if due and setup.takes_part:
        found = measure_collapse(setup.measured, setup.train_plain, accelerator, seed=train.seed, **sizes)
        log("collapse", step, found)
    layers = setup.config.intermediate
    if layers is not None and standing.epoch + 1 in (*layers.epochs, train.epochs) and accelerator.is_main_process:
        found = measure_layer_inputs(
            setup.measured, setup.train_plain, setup.val, layers, accelerator, seed=train.seed, **sizes
        )
        log("layers", step, found)
    if setup.control is not None and setup.control.due(standing.epoch + 1, train.epochs):
        _correct(setup, sizes)
        log("control", step, setup.control.values())
    return keep(setup, standing, directory.checkpoints, scores)


def _train_epoch(setup: Setup, standing: Standing, directory: RunDirectory, log: Log, came: list[int]) -> Standing:
    """One pass over the training images, or its rest; returns how far it came before a signal.

    The log has a line every ``log_interval`` steps and at the end.
    """
    train, accelerator, epoch = setup.config.train, setup.accelerator, standing.epoch
    step, end, note = standing.step, (epoch + 1) * setup.steps_per_epoch, ""
    first = (step - epoch * setup.steps_per_epoch) * train.grad_accum_steps
    setup.begin(epoch, first)
    averages, tracker = setup.averages, setup.tracker
    with progress(f"epoch {epoch + 1}/{train.epochs}", total=setup.images_per_epoch) as advance:
        advance(first * int(setup.loader.batch_size or 1) * accelerator.num_processes)
        for turn, batches in enumerate(setup.turns()):
            rate = setup.set_learning_rate(epoch, step)
            done = take_turn(setup, epoch, first + turn * len(batches), batches)
            averages.add(done.loss, done.parts, done.logits, done.targets, done.taps)
            step += accelerator.sync_gradients
            if setup.ema is not None and accelerator.sync_gradients:
                setup.ema.update(setup.model, step=step)
            if setup.control is not None:
                setup.control.step(done.parts, rate / setup.peak_rate)
            point = None if tracker is None else tracker.step(done.taps, done.targets)
            if point is not None:
                at = step + (
                    not accelerator.sync_gradients
                )  # a run goes on behind a step, so no line may be within one
                log("tracked", at, {f"collapse/{tap}/{k}": v for tap, row in point.items() for k, v in row.items()})
            if accelerator.sync_gradients and (step % train.log_interval == 0 or step == end):
                values = averages.read(last_step=step, batches_per_step=train.grad_accum_steps // len(batches))
                log("train", step, {**values, "lr": rate})
                if setup.control is not None:
                    log("control", step, setup.control.values())
                note = f"loss {values['loss']:.3f}"
            advance(len(done.targets) * accelerator.num_processes, note=note)
            if accelerator.sync_gradients and step < end:
                stop = _anywhere(came, accelerator, step)
                due = train.recovery_interval > 0 and step % train.recovery_interval == 0
                if (stop or due) and setup.is_finite():  # a spoiled checkpoint would take the place of a sound one
                    save(setup, replace(standing, step=step), directory.checkpoints, {"epoch": epoch, "step": step})
                if stop:
                    break
    return replace(standing, step=step)


def _anywhere(came: list[int], accelerator: Accelerator, step: int = 0) -> bool:
    """Whether a signal has come, to whichever process; that of several is asked at every eighth step alone."""
    if accelerator.num_processes == 1:
        return bool(came)
    if step % _ASKED:
        return False
    return bool(accelerator.reduce(torch.tensor(float(bool(came)), device=accelerator.device)) > 0)


def _correct(setup: Setup, sizes: Mapping[str, int]) -> None:
    """Measure the controlled taps in the main process; every process corrects its estimates by that."""
    control, accelerator = setup.control, setup.accelerator
    assert control is not None
    measured: list[Mapping[str, float | None]] = [{}]
    if setup.takes_part:
        seed = setup.config.train.seed
        measured = [
            control.measure(
                *sample_taps(setup.measured, setup.train_plain, accelerator, images=SAMPLE, seed=seed, **sizes)
            )
        ]
    broadcast_object_list(measured)
    control.correct(measured[0])
    if accelerator.is_main_process:
        for line in control.news():
            logger.warning("%s", line)


def _tracker_names(config: Config) -> list[str]:
    names = ["local", *config.tracking.names()]
    for name in names:
        TRACKERS[name]  # an unknown one is refused before anything is built
    return names


def _on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Let the main process act, and every process raise what it raised."""
    outcome: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            action()
        except UserError as error:
            outcome = [str(error)]
    broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise UserError(outcome[0])
