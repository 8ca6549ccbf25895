"""The cache of feature banks: one folder a data set, found by a hash of everything that produced it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ood_nc.errors import UserError
from ood_nc.features.bank import FeatureBank
from ood_nc.features.cache_key import bank_key
from ood_nc.features.extraction import Forwarded, UnreadableError, described, forwarded
from ood_nc.features.writing import INDEX, JOURNAL, LOGITS, BankWriter, check_space, file_name, row_bytes
from ood_nc.files import expanded, write_lock, writing
from ood_nc.sealed import read_sealed, read_sealed_bytes

_log = logging.getLogger("ood_nc")
T = TypeVar("T")


class BankStore:
    """Feature banks in a folder.

    The key is a hash of the weights, the taps with their pooling, the transform, the data set's fingerprint and the
    precision; a bank made under any other key is never read. Banks are written batch by batch and memory mapped, so one
    larger than the memory can be made and used; an extraction that was stopped goes on at the batch where it stopped.

    Args:
        directory: the folder; made when the first bank is written.
        dtype: of the features: float32, float16 or bfloat16. Logits are float32.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import BankStore
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> import tempfile
        >>> store = BankStore(tempfile.mkdtemp())
        >>> first, again = store.get(model, images), store.get(model, images)
        >>> torch.equal(first.logits, again.logits), again.seconds
        (True, 0.0)
    """

    def __init__(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        self.directory, self.dtype = expanded(directory), dtype

    def get(self, model: Any, dataset: Any, *, weights: str | None = None, **options: Any) -> FeatureBank:
        """The bank of a data set, from the folder if it is there, else extracted into it.

        A damaged bank is reported, extracted again and replaced; one that another process is making is waited for.

        Args:
            model: as for `extract`.
            dataset: as for `extract`.
            weights: the model's `weights_hash`, where the caller already has it.
            **options: passed on to `extract`.

        Raises:
            UnreadableError: none of the images can be read.
            UserError: the disk cannot hold it, or a feature is too large for ``dtype``.
        """
        path, key = self._place(model, dataset, weights, options)
        bank = _agreed(_load(path, key))
        if bank is not None:
            return bank
        start = time.perf_counter()
        self._make(path, key, model, dataset, options)
        bank = _load(path, key)
        if _agreed(bank) is None:  # not every machine sees the folder
            bank = _of_first(lambda: bank)
        if bank is None:
            raise UserError(f"The feature bank {path} was changed while it was made: run the command again.")
        return replace(bank, seconds=time.perf_counter() - start)

    def check_space(self, model: Any, datasets: Iterable[Any], *, weights: str | None = None, **options: Any) -> None:
        """Refuse banks that the disk cannot hold together, before any is begun; arguments as for `get`.

        Raises:
            UserError: with the bytes needed and those free.
        """
        needed = held = 0
        for dataset in datasets:
            path, _ = self._place(model, dataset, weights, options)
            if not path.exists():
                needed += row_bytes(model, self.dtype) * len(dataset)
                held += _size(_unfinished(path))
        check_space(self.directory, needed, held, "The features")

    def path(self, name: str, key: str) -> Path:
        """The folder of the bank of data set ``name`` under ``key``."""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}-{key[:24]}"

    def _place(self, model: Any, dataset: Any, weights: str | None, options: dict[str, Any]) -> tuple[Path, str]:
        precision = {name: options[name] for name in ("amp", "amp_dtype") if name in options}
        key = bank_key(model, dataset, weights=weights, dtype=self.dtype, **precision)
        return self.path(dataset.name, key), key

    def _make(self, path: Path, key: str, model: Any, dataset: Any, options: dict[str, Any]) -> None:
        """Have the bank in the folder; the first process writes it, and all forward."""
        writers: list[BankWriter] = []
        with ExitStack() as stack:
            start = _of_first(lambda: self._begin(stack, writers, path, key, model, dataset))
            with closing(self._batches(model, dataset, start, options)) as batches:
                for batch in batches:
                    for writer in writers:
                        writer.append(batch)
            _of_first(lambda: _finish(writers, dataset, path))

    def _batches(
        self, model: Any, dataset: Any, start: int, options: dict[str, Any]
    ) -> Generator[Forwarded, None, None]:
        """What a bank is made of, from the position ``start`` on."""
        return forwarded(model, dataset, start=start, dtype=self.dtype, **options)

    def _begin(
        self, stack: ExitStack, writers: list[BankWriter], path: Path, key: str, model: Any, dataset: Any
    ) -> int:
        """Lock the bank, and open what writes it where there is something to write; the position to begin at."""
        stack.enter_context(write_lock(path, wait=True))
        part = _unfinished(path)
        with suppress(UserError, ValueError, KeyError, TypeError):  # another process may have made it by now
            _read(path, key)
            return len(dataset)
        with writing(path):
            shutil.rmtree(path, ignore_errors=True)
            if (part / INDEX).exists() and not (part / JOURNAL).exists():  # stopped on its last step
                part.rename(path)
                return len(dataset)
        held = _size(part)
        check_space(
            self.directory, row_bytes(model, self.dtype) * len(dataset), held, f"The features of {dataset.name}"
        )
        writers.append(stack.enter_context(BankWriter(part, model, len(dataset), self.dtype, key)))
        return writers[0].stop


def _finish(writers: list[BankWriter], dataset: Any, path: Path) -> bool:
    """Put what was written into its place; whether there was something."""
    for writer in writers:
        try:
            labels, ids, broken = described(dataset, writer.broken)
        except UnreadableError:
            shutil.rmtree(writer.folder)
            raise
        writer.seal(labels, ids, broken)
        with writing(path):
            (writer.folder / JOURNAL).unlink()
            writer.folder.rename(path)
    return bool(writers)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _load(path: Path, key: str) -> FeatureBank | None:
    if not path.exists():
        return None
    try:
        return _read(path, key)
    except (UserError, ValueError, KeyError, TypeError) as error:
        _log.warning("The feature bank %s is damaged (%s): the features are extracted again.", path, error)
    return None


def _read(path: Path, key: str) -> FeatureBank:
    """The bank, its tensors memory mapped.

    Raises:
        UserError: a file is not there or damaged.
        ValueError, KeyError, TypeError: the files do not belong together.
    """
    index = json.loads(read_sealed_bytes(path / INDEX))
    names = [file_name(number) for number in range(len(index["taps"]))]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # digests take longer than the disk
        files = list(pool.map(read_sealed, [path / name for name in (*names, LOGITS)]))
    if {index["key"], *(header["key"] for header, _ in files)} != {key}:
        raise ValueError("it was made under another key")
    *taps, logits = (tensors["rows"] for _, tensors in files)
    labels, ids = torch.tensor(index["labels"], dtype=torch.long), tuple(index["ids"])
    rows = {len(tensor) for tensor in (*taps, logits, labels)}
    if rows != {len(ids)}:
        raise ValueError(f"its files have {sorted(rows)} rows for {len(ids)} ids")
    broken = [(name, reason) for name, reason in index["broken"]]
    return FeatureBank(dict(zip(index["taps"], taps, strict=True)), logits, labels, ids, key, broken)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_first(compute: Callable[[], T]) -> T:
    """What ``compute`` gives in the first process, in all of them; its error is everybody's."""
    if not _initialized():
        return compute()
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = compute()
        except UserError as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def _agreed(bank: FeatureBank | None) -> FeatureBank | None:
    """The bank if every process has it, else None for all: extraction is a joint effort."""
    if not _initialized():
        return bank
    found: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(found, bank is not None)
    return bank if all(found) else None
