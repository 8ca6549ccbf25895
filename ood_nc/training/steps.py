"""One turn of the loop: a batch forwarded and its gradient taken, or those of several batches together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch

from ood_nc.errors import UserError
from ood_nc.training.seeds import seed_everything
from ood_nc.training.setup import Setup
from ood_nc.training.unread import outputs_of

Loaded = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Images, targets, which image each is a copy of, and images of outliers."""


class Turn(NamedTuple):
    """What a turn gave: the loss, its parts, and what it is made of."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    logits: torch.Tensor
    targets: torch.Tensor
    taps: dict[str, torch.Tensor]


class _Batch(NamedTuple):
    seed: tuple[int | str, ...]
    images: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor | None
    outliers: torch.Tensor | None


class _Output(NamedTuple):
    logits: torch.Tensor
    taps: dict[str, torch.Tensor]
    outliers: torch.Tensor | None


def take_turn(setup: Setup, epoch: int, first: int, loaded: Sequence[Loaded]) -> Turn:
    """Forward batches and take their gradient; where it is the last of a step, take the step.

    One batch is a batch of Accelerate's accumulation. The loss of several is that of the batch they make together: what
    all give is found first without a graph, the loss and its gradient at what they give next, and each is forwarded
    again to carry its part of that to the weights. So memory is that of one batch, the gradient that of all, whatever
    terms the loss has, and the price one more forward pass. The random numbers of both passes are the same, and batch
    statistics are taken once.

    Args:
        setup: the run.
        epoch: the epoch.
        first: number of the first batch in it.
        loaded: the batches.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021).
    """
    batches = [_place(setup, epoch, first + number, one) for number, one in enumerate(loaded)]
    if len(batches) > 1:
        return _together(setup, batches)
    (batch,) = batches
    with setup.accelerator.accumulate(setup.module):
        output = _forward(setup, batch)
        loss, parts = _loss(setup, output, batch.targets, batch.groups, setup.model.heads)
        setup.accelerator.backward(loss)
        _update(setup)
    return Turn(loss, parts, output.logits, batch.targets, output.taps)


def _together(setup: Setup, batches: Sequence[_Batch]) -> Turn:
    accelerator = setup.accelerator
    statistics = [(buffer, buffer.clone()) for buffer in _running(setup)]
    with torch.no_grad():
        found = [_forward(setup, batch) for batch in batches]
    for buffer, before in statistics:
        buffer.copy_(before)
    whole = _joined(found)
    for leaf in _tensors(whole):
        leaf.requires_grad_()
    targets = torch.cat([batch.targets for batch in batches])
    groups = [batch.groups for batch in batches if batch.groups is not None]
    # DistributedDataParallel waits for every weight in the last backward pass: what a term gives to a head comes then.
    own = setup.model.heads
    heads = {tap: (_leaf(weight), None if bias is None else _leaf(bias)) for tap, (weight, bias) in own.items()}
    loss, parts = _loss(setup, whole, targets, torch.cat(groups) if groups else None, heads)
    accelerator.backward(loss)
    pairs_of_heads = [pair for tap in own for pair in zip(own[tap], heads[tap], strict=True)]
    of_heads = [(one, leaf.grad) for one, leaf in pairs_of_heads if one is not None and leaf is not None]
    slopes = [leaf.grad for leaf in _tensors(whole)]
    sizes = [[len(tensor) for tensor in _tensors(output)] for output in found]
    starts = [0] * len(slopes)
    for batch, size in zip(batches, sizes, strict=True):
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(setup.module):
            sliced = [
                (output, None if slope is None else slope[at : at + n])
                for output, slope, at, n in zip(_tensors(_forward(setup, batch)), slopes, starts, size, strict=True)
            ]
            pairs = [*sliced, *(of_heads if batch is batches[-1] else ())]
            pairs = [(one, slope) for one, slope in pairs if slope is not None and one.requires_grad]
            torch.autograd.backward([one for one, _ in pairs], [slope for _, slope in pairs])
        starts = [at + n for at, n in zip(starts, size, strict=True)]
    _update(setup)
    return Turn(loss.detach(), parts, whole.logits.detach(), targets, {n: t.detach() for n, t in whole.taps.items()})


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_()


def _place(setup: Setup, epoch: int, number: int, loaded: Loaded) -> _Batch:
    images, targets, indices, outliers = loaded
    seed = (setup.config.train.seed, "batch", epoch, number, setup.accelerator.process_index)
    seed_everything(*seed)
    images, targets = setup.place(images, targets)
    return _Batch(seed, images, targets, setup.groups(indices), None if outliers is None else setup.on_device(outliers))


def _forward(setup: Setup, batch: _Batch) -> _Output:
    seed_everything(*batch.seed)
    images = batch.images if batch.outliers is None else torch.cat([batch.images, batch.outliers])
    try:
        logits, taps = setup.module(images, taps=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "Batch norm has no variance of one value: give each process more than one image a batch "
            "(train.batch_size, train.grad_accum_steps), or take --model.normalization group_ws."
        ) from None
    if batch.outliers is None:
        return _Output(logits, taps, None)
    size = len(batch.images)
    return _Output(logits[:size], {name: rows[:size] for name, rows in taps.items()}, logits[size:])


def _loss(
    setup: Setup,
    output: _Output,
    targets: torch.Tensor,
    groups: torch.Tensor | None,
    heads: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss, parts = setup.objective(output.logits, targets, output.taps, groups, heads=heads, outliers=output.outliers)
    if setup.unread is not None:  # several processes wait for the gradient of every weight, those no term reads too
        outputs = outputs_of(output.logits, output.taps, heads, output.outliers)
        setup.unread.see(loss, outputs)
        loss = loss + sum(tensor[:0].sum() for tensor in outputs)
    return loss, parts


def _update(setup: Setup) -> None:
    accelerator, most = setup.accelerator, setup.config.train.clip_grad
    if setup.unread is not None:
        setup.unread.leave(setup.model)
    if accelerator.sync_gradients and most is not None:
        accelerator.clip_grad_norm_(setup.module.parameters(), most)
    setup.optimizer.step()
    setup.optimizer.zero_grad()


def _running(setup: Setup) -> list[torch.Tensor]:
    """The statistics that a forward pass moves."""
    return [buffer for name, buffer in setup.model.named_buffers() if "running_" in name or "num_batches" in name]


def _tensors(output: _Output) -> list[torch.Tensor]:
    return [output.logits, *output.taps.values(), *([] if output.outliers is None else [output.outliers])]


def _joined(outputs: Sequence[_Output]) -> _Output:
    def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.detach() for tensor in tensors])

    taps: Mapping[str, torch.Tensor] = outputs[0].taps
    outliers = [output.outliers for output in outputs if output.outliers is not None]
    return _Output(
        joined([output.logits for output in outputs]),
        {name: joined([output.taps[name] for output in outputs]) for name in taps},
        joined(outliers) if outliers else None,
    )
