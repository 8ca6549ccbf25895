"""Extraction of all taps in one forward pass an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.features.bank import FeatureBank
from ood_nc.features.batches import Reader, collate
from ood_nc.passes import evaluating
from ood_nc.progress import progress

Unread = list[tuple[int, str]]


class UnreadableError(UserError):
    """A data set has images, but none that can be read."""


class Forwarded(NamedTuple):
    """One batch of a data set, forwarded.

    Attributes:
        stop: the position in the data set behind the batch.
        rows: positions of the images that could be read (B,).
        taps: tap name to features (B, d) on the CPU.
        logits: (B, C) float32 on the CPU.
        unread: position and reason of each image that could not be read.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import Forwarded, forwarded
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> batch = next(forwarded(model, images, batch_size=2))
        >>> isinstance(batch, Forwarded), batch.rows, batch.unread
        (True, tensor([0, 1]), [])
    """

    stop: int
    rows: torch.Tensor
    taps: dict[str, torch.Tensor]
    logits: torch.Tensor
    unread: Unread


def forwarded(
    model: Any,
    dataset: Any,
    *,
    start: int = 0,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    amp: bool = False,
    amp_dtype: torch.dtype = torch.float16,
    dtype: torch.dtype = torch.float32,
) -> Generator[Forwarded, None, None]:
    """Run a data set through the model, batch by batch in its order. Close the iterator where it is left early.

    Under `torch.distributed` whole batches are dealt out to the processes, and every process is given all of them.
    Batches hold the same images whatever the number of processes, so nothing depends on it.

    The other arguments are those of `extract`.

    Args:
        start: the position to begin at, where an earlier batch stopped.
        dtype: of the features.

    Raises:
        UserError: a feature is too large for ``dtype``.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import forwarded
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> [(batch.stop, len(batch.logits)) for batch in forwarded(model, images, batch_size=128)]
        [(128, 128), (256, 128), (300, 44)]
    """
    device = choose_device(device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    starts = range(start, len(dataset), batch_size)
    batches = [list(range(first, min(first + batch_size, len(dataset)))) for first in starts]
    own = batches[rank::world]
    loader: DataLoader[Any] = DataLoader(
        Reader(dataset),
        batch_sampler=own,
        num_workers=min(workers, len(own)),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the global one is the caller's
    )
    autocast = torch.autocast(device.type, dtype=amp_dtype) if amp else nullcontext()
    read, fastest = iter(loader), _fastest(model.forward_taps, device)
    with evaluating(model.to(device)), progress(f"features of {dataset.name}", len(dataset)) as advance:
        advance(start)
        for first in range(0, len(batches), world):
            batch = None
            if first + rank < len(batches):
                rows, images, unread = next(read)
                # Not around the whole loop: what is done with a batch is the caller's.
                with torch.inference_mode(), autocast:
                    output, taps = _forward(model, fastest, images, device, dtype)
                batch = Forwarded(batches[first + rank][-1] + 1, rows, taps, output, unread)
            for one in _from_all(batch):
                yield one
                advance(len(one.rows) + len(one.unread))


def extract(
    model: Any,
    dataset: Any,
    *,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    amp: bool = False,
    amp_dtype: torch.dtype = torch.float16,
    dtype: torch.dtype = torch.float32,
) -> FeatureBank:
    """Run every image of a data set through the model once and keep all taps and the logits in memory.

    Under `torch.distributed` whole batches are dealt out to the processes and every process returns the whole bank; no
    sample is padded or repeated. An image that cannot be read is left out and listed in ``broken``.

    Args:
        model: `ControlledModel`, or any module with ``forward_taps``, ``tap_info`` and ``num_classes``.
        dataset: `ImageDataset`, its transform set.
        batch_size: images a forward pass.
        workers: processes that load images.
        device: where the model runs; the bank is on the CPU.
        amp: run the model under autocast; the bank is of ``dtype`` in any case.
        amp_dtype: autocast's type.
        dtype: of the features in the bank: float32, float16 or bfloat16. Logits are float32.

    Raises:
        UnreadableError: none of the images can be read.
        UserError: a feature is too large for ``dtype``.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import extract
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> bank = extract(model, images)
        >>> {tap: tuple(features.shape) for tap, features in bank.taps.items()}, tuple(bank.logits.shape)
        ({'encoder': (300, 64), 'projector': (300, 64)}, (300, 10))
    """
    start = time.perf_counter()
    taps = {name: torch.empty(len(dataset), info.dim, dtype=dtype) for name, info in model.tap_info.items()}
    logits = torch.empty(len(dataset), model.num_classes)
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "device": device}
    broken: Unread = []
    count = 0
    with closing(forwarded(model, dataset, **options, amp=amp, amp_dtype=amp_dtype, dtype=dtype)) as batches:
        for batch in batches:
            stop = count + len(batch.rows)
            logits[count:stop] = batch.logits
            for name, features in batch.taps.items():
                taps[name][count:stop] = features
            broken += batch.unread
            count = stop
    labels, ids, named = described(dataset, broken)
    taps = {name: features[:count] for name, features in taps.items()}
    return FeatureBank(taps, logits[:count], labels, ids, broken=named, seconds=time.perf_counter() - start)


def described(dataset: Any, broken: Unread) -> tuple[torch.Tensor, tuple[str, ...], list[tuple[str, str]]]:
    """Labels and ids of the images that could be read, and id and reason of the others.

    Raises:
        UnreadableError: none could be read.
    """
    labels, ids = torch.as_tensor(dataset.targets, dtype=torch.long), tuple(dataset.ids)
    if broken and len(broken) == len(ids):
        reason = broken[0][1]
        raise UnreadableError(f"None of the {len(ids)} images of {dataset.name} can be read (the first: {reason}).")
    keep = torch.ones(len(ids), dtype=torch.bool)
    keep[[position for position, _ in broken]] = False
    named = [(ids[position], reason) for position, reason in broken]
    return labels[keep], tuple(ids[row] for row in keep.nonzero().flatten().tolist()), named


def _fastest(forward: Callable[[torch.Tensor], Any], device: torch.device) -> Callable[[torch.Tensor], Any]:
    """The pass on a layout of the images that the device's convolutions are faster on; values differ by rounding."""
    if device.type != "cpu":
        return forward
    accepted = True

    def channels_last(images: torch.Tensor) -> Any:
        nonlocal accepted
        if accepted:
            try:
                return forward(images.contiguous(memory_format=torch.channels_last))
            except RuntimeError:
                # A module that takes views of its maps needs them as they are; any other error comes again.
                accepted = False
        return forward(images)

    return channels_last


def _forward(
    model: Any,
    forward: Callable[[torch.Tensor], Any],
    images: torch.Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if images is None:
        taps = {name: torch.empty(0, info.dim, dtype=dtype) for name, info in model.tap_info.items()}
        return torch.empty(0, model.num_classes), taps
    output, features = forward(images.to(device, non_blocking=True))
    return output.float().cpu(), {name: _stored(name, features[name].float(), dtype) for name in model.tap_info}


def _stored(tap: str, features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    stored = features.to(dtype)
    if bool((stored.isinf() & features.isfinite()).any()):
        largest = float(features.abs().nan_to_num(0, 0).max())
        raise UserError(
            f"A feature of tap {tap!r} is {largest:.3g}, and {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:.3g}: keep the bank in bfloat16 or float32."
        )
    return stored.cpu()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _from_all(batch: Forwarded | None) -> list[Forwarded]:
    """The batches of a round, of all processes that had one."""
    if not _distributed():
        return [] if batch is None else [batch]
    gathered: list[Forwarded | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, batch)
    return [one for one in gathered if one is not None]
