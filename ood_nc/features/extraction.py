"""Extraction of all taps in one forward pass an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, nullcontext
from threading import Lock
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.features.bank import FeatureBank
from ood_nc.features.batches import Reader, collate
from ood_nc.features.small_maps import SmallMaps
from ood_nc.passes import channels_last, evaluating
from ood_nc.processes import bounded_workers
from ood_nc.progress import progress
from ood_nc.threads import beside_each_other, in_order

Unread = list[tuple[int, str]]

_LEAST = 32
"""Images of a pass that runs beside others."""


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
    at_once = _at_once(model, batch_size, device, world)
    starts = range(start, len(dataset), batch_size)
    batches = [range(first, min(first + batch_size, len(dataset))) for first in starts]
    own = [_parts(batch, at_once) for batch in batches[rank::world]]
    loader = _loader(dataset, [part for parts in own for part in parts], workers, device)
    fastest = _Fastest(model, device)

    def one_pass(rows: torch.Tensor, images: torch.Tensor | None, unread: Unread) -> Forwarded:
        # Modes hold in the thread that enters them, and not for what the caller does with a batch; nor do the caller's.
        with torch.inference_mode(), torch.autocast(device.type, dtype=amp_dtype, enabled=amp):
            output, taps = _forward(model, fastest, images, device, dtype)
        return Forwarded(0, rows, taps, output, unread)

    with (
        evaluating(model.to(device)),
        fastest,
        progress(f"features of {dataset.name}", len(dataset)) as advance,
        beside_each_other(at_once) as begin,
    ):
        advance(start)
        passes = in_order((begin(one_pass, *read) for read in loader), ahead=at_once if at_once > 1 else 0)
        for first in range(0, len(batches), world):
            batch = None
            if first + rank < len(batches):
                batch = _joined([next(passes) for _ in own[first // world]], batches[first + rank].stop)
            for one in _from_all(batch):
                yield one
                advance(len(one.rows) + len(one.unread))


def _loader(dataset: Any, parts: list[list[int]], workers: int, device: torch.device) -> DataLoader[Any]:
    """The images of each part, in order."""
    return DataLoader(
        Reader(dataset),
        batch_sampler=parts,
        num_workers=min(bounded_workers(workers), len(parts)),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the global one is the caller's
    )


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
        batch_size: images a forward pass; on a processor, of the passes beside each other together.
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


def _at_once(model: Any, batch_size: int, device: torch.device, processes: int) -> int:
    """Passes that run beside each other, so many that each has images enough to be worth a thread of its own.

    One that has its convolutions, and all between them, to itself is faster than several that share each of them.
    """
    if device.type != "cpu" or processes > 1 or not getattr(model, "runs_in_threads", False):
        return 1
    return max(1, min(torch.get_num_threads(), batch_size // _LEAST))


def _parts(batch: range, count: int) -> list[list[int]]:
    """A batch in so many parts of equal length."""
    length = -(-len(batch) // count)
    return [list(batch[first : first + length]) for first in range(0, len(batch), length)]


def _joined(parts: list[Forwarded], stop: int) -> Forwarded:
    """The batch that was forwarded in parts."""
    if len(parts) == 1:
        return parts[0]._replace(stop=stop)
    taps = {name: torch.cat([part.taps[name] for part in parts]) for name in parts[0].taps}
    unread = [one for part in parts for one in part.unread]
    return Forwarded(
        stop, torch.cat([part.rows for part in parts]), taps, torch.cat([part.logits for part in parts]), unread
    )


class _Fastest:
    """The pass on a layout of images and weights that the processor's convolutions are faster on, and with products in
    place of those on small maps, for the length of a ``with`` block; values differ by rounding.

    Args:
        model: with ``forward_taps``.
        device: any other than a processor is given the images as they are.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._accepted = model, device.type == "cpu"
        self._small_maps = self._accepted and SmallMaps.serve(model)
        self._laid_out, self._lock = ExitStack(), Lock()

    def __enter__(self) -> _Fastest:
        if self._accepted:
            self._laid_out.enter_context(channels_last(self._model))
        return self

    def __exit__(self, *error: object) -> None:
        self._laid_out.close()

    def __call__(self, images: torch.Tensor) -> Any:
        if self._accepted:
            try:
                with SmallMaps() if self._small_maps else nullcontext():
                    return self._model.forward_taps(images.contiguous(memory_format=torch.channels_last))
            except RuntimeError:
                # A module that takes views of its maps needs them as they are; any other error comes again.
                with self._lock:
                    self._accepted = False
                    self._laid_out.close()
        return self._model.forward_taps(images)


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
