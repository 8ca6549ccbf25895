"""Extraction of all taps in one forward pass an image."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.features.bank import FeatureBank
from ood_nc.features.batches import Reader, collate
from ood_nc.passes import evaluating
from ood_nc.progress import progress

_SYNC_ELEMENTS = 1 << 24


class UnreadableError(UserError):
    """A data set has images, but none that can be read."""


def extract(
    model: Any,
    dataset: Any,
    *,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    accelerator: Any = None,
    amp: bool = False,
    amp_dtype: torch.dtype = torch.float16,
) -> FeatureBank:
    """Run every image of a data set through the model once and keep all taps and the logits.

    Under `torch.distributed` whole batches are dealt out to the processes and every process returns the whole bank.
    Batches hold the same images whatever the number of processes, so the bank does not depend on it; no sample is
    padded or repeated. An image that cannot be read is left out and listed in ``broken``.

    Args:
        model: `ControlledModel`, or any module with ``forward_taps``, ``tap_info`` and ``num_classes``.
        dataset: `ImageDataset`, its transform set.
        batch_size: images a forward pass.
        workers: processes that load images.
        device: where the model runs; the bank is on the CPU.
        accelerator: Hugging Face `Accelerator` that prepared the model; its device is used.
        amp: run the model under autocast; the bank is float32 in any case.
        amp_dtype: autocast's type.

    Raises:
        UnreadableError: none of the images can be read.
    """
    start = time.perf_counter()
    if accelerator is not None:
        model, device = accelerator.unwrap_model(model), accelerator.device
    device = choose_device(device)
    taps, logits = _allocate(model, len(dataset))
    autocast = torch.autocast(device.type, dtype=amp_dtype) if amp else nullcontext()
    with evaluating(model.to(device)):
        broken = _fill(model, dataset, taps, logits, batch_size, workers, device, autocast)
    broken = _synchronise([*taps.values(), logits], broken)
    if broken and len(broken) == len(dataset):
        raise UnreadableError(
            f"None of the {len(dataset)} images of {dataset.name} can be read (the first: {broken[0][1]})."
        )
    return _finish(dataset, taps, logits, broken, time.perf_counter() - start)


def _allocate(model: Any, n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    taps = {name: torch.zeros(n, info.dim) for name, info in model.tap_info.items()}
    return taps, torch.zeros(n, model.num_classes)


def _fill(
    model: Any,
    dataset: Any,
    taps: dict[str, torch.Tensor],
    logits: torch.Tensor,
    batch_size: int,
    workers: int,
    device: torch.device,
    autocast: AbstractContextManager[Any],
) -> list[tuple[int, str]]:
    """Write this process's rows; return the positions that could not be read, with the reason."""
    batches = _own_batches(len(dataset), batch_size)
    loader: DataLoader[Any] = DataLoader(
        Reader(dataset),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the global one is the caller's
    )
    broken: list[tuple[int, str]] = []
    total = sum(len(batch) for batch in batches)
    with torch.inference_mode(), progress(f"features of {dataset.name}", total) as advance:
        for rows, images, unread in loader:
            broken += unread
            if images is not None:
                with autocast:
                    output, features = model.forward_taps(images.to(device, non_blocking=True))
                logits[rows] = output.float().cpu()
                for name, bank in taps.items():
                    bank[rows] = features[name].float().cpu()
            advance(len(rows) + len(unread))
    return broken


def _own_batches(n: int, batch_size: int) -> list[list[int]]:
    """The batches of this process: every ``world``-th batch of the data set in order."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    starts = range(rank * batch_size, n, world * batch_size)
    return [list(range(start, min(start + batch_size, n))) for start in starts]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _synchronise(banks: list[torch.Tensor], broken: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Give every process all rows: each row is zero in all processes but one, so a sum is exact."""
    if not _distributed():
        return sorted(broken)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None
    for bank in banks:
        for part in bank.view(-1).split(_SYNC_ELEMENTS):
            shared = part if device is None else part.to(device)
            dist.all_reduce(shared)
            if device is not None:
                part.copy_(shared)
    gathered: list[list[tuple[int, str]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, broken)
    return sorted(pair for pairs in gathered for pair in pairs)


def _finish(
    dataset: Any,
    taps: dict[str, torch.Tensor],
    logits: torch.Tensor,
    broken: list[tuple[int, str]],
    seconds: float,
) -> FeatureBank:
    labels = torch.as_tensor(dataset.targets, dtype=torch.long)
    ids = tuple(dataset.ids)
    named = [(ids[position], reason) for position, reason in broken]
    if broken:
        keep = torch.ones(len(ids), dtype=torch.bool)
        keep[[position for position, _ in broken]] = False
        taps = {name: bank[keep] for name, bank in taps.items()}
        logits, labels = logits[keep], labels[keep]
        ids = tuple(ids[row] for row in keep.nonzero().flatten().tolist())
    return FeatureBank(taps, logits, labels, ids, broken=named, seconds=seconds)
