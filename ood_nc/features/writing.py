"""A bank that is being made: a folder whose files grow batch by batch, and a journal of what they hold.

The folder holds one sealed file a tap, one of the logits and, last, one of labels and ids. Whatever stops the writing,
the next one goes on where it stopped: each line of the journal carries a digest over the bytes of its batch in all
files, and what does not have it (a batch half written, or lost with the power) is forwarded again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from ood_nc.errors import UserError
from ood_nc.features.extraction import Forwarded, Unread
from ood_nc.files import writing
from ood_nc.sealed import RowFile, write_sealed_bytes

INDEX, JOURNAL, LOGITS = "index", "journal", "logits.safetensors"


def file_name(number: int) -> str:
    """Of the tap of this number; the names of taps themselves may be no file names."""
    return f"tap-{number}.safetensors"


class BankWriter:
    """Writes a bank, from where an earlier writer stopped; a context that closes its files.

    Args:
        folder: where it is made.
        model: with ``tap_info`` and ``num_classes``.
        most: images of the data set.
        dtype: of the features.
        key: of the bank.

    Attributes:
        stop: the position in the data set up to which the bank holds its images.
        broken: position and reason of each of these that could not be read.
    """

    def __init__(self, folder: Path, model: Any, most: int, dtype: torch.dtype, key: str) -> None:
        self.folder, self.key, self.taps = folder, key, list(model.tap_info)
        self.stop, self.broken = 0, Unread()
        kinds = [(file_name(number), info.dim, dtype) for number, info in enumerate(model.tap_info.values())]
        kinds.append((LOGITS, model.num_classes, torch.float32))
        with writing(folder), ExitStack() as opened:
            folder.mkdir(parents=True, exist_ok=True)
            files = [RowFile(folder / name, width, kind, most, {"key": key}) for name, width, kind in kinds]
            self._files = [opened.enter_context(closing(file)) for file in files]
            self._journal = opened.enter_context(open(folder / JOURNAL, "a+b", buffering=0))
            self._resume()
            self._opened = opened.pop_all()

    def __enter__(self) -> BankWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def append(self, batch: Forwarded) -> None:
        """Write a batch: the one at position ``stop``."""
        facts = {"stop": batch.stop, "rows": len(batch.rows), "unread": batch.unread}
        with writing(self.folder):
            parts = [batch.taps[name] for name in self.taps] + [batch.logits]
            data = [file.append(rows) for file, rows in zip(self._files, parts, strict=True)]
            self._journal.write(json.dumps({**facts, "digest": _digest(facts, data)}).encode() + b"\n")
        self._take(facts)

    def seal(self, labels: torch.Tensor, ids: Iterable[str], broken: list[tuple[str, str]]) -> None:
        """Finish the files; the journal is of no more use then."""
        with writing(self.folder):
            for file in self._files:
                file.seal()
        index = {"key": self.key, "taps": self.taps, "ids": list(ids), "labels": labels.tolist(), "broken": broken}
        write_sealed_bytes(self.folder / INDEX, json.dumps(index).encode())

    def _take(self, facts: dict[str, Any]) -> None:
        self.stop = facts["stop"]
        self.broken += [(position, reason) for position, reason in facts["unread"]]

    def _resume(self) -> None:
        """Take up what the journal vouches for, and cut off the rest."""
        self._journal.seek(0)
        rows = length = 0
        for line in self._journal.read().splitlines(keepends=True):
            try:
                facts = json.loads(line)
                digest, end = facts.pop("digest"), rows + facts["rows"]
                if digest != _digest(facts, [file.read(rows, end) for file in self._files]):
                    break
                self._take(facts)
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            rows, length = end, length + len(line)
        self._journal.truncate(length)
        for file in self._files:
            file.keep(rows)


def check_space(folder: Path, needed: int, held: int, what: str) -> None:
    """Refuse what the disk cannot hold, before it is begun.

    Args:
        folder: where it goes; it need not be there yet.
        needed: bytes it takes.
        held: bytes of it that are there already.
        what: what it is, for the message.

    Raises:
        UserError: with the bytes needed and those free.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed - held > free:
        raise UserError(
            f"{what} take {needed - held:,} bytes more and {folder} has {free:,} free: free some, keep them in half "
            "(--bank-dtype float16), or go without (--no-bank)."
        )


def row_bytes(model: Any, dtype: torch.dtype) -> int:
    """Bytes of an image in a bank."""
    features: int = sum(info.dim for info in model.tap_info.values()) * dtype.itemsize
    return features + model.num_classes * torch.float32.itemsize


def _digest(facts: dict[str, Any], data: Iterable[bytes | memoryview]) -> str:
    whole = hashlib.sha256(json.dumps(facts).encode())
    for part in data:
        whole.update(part)
    return whole.hexdigest()
