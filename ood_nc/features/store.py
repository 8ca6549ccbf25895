"""The cache of feature banks: one safetensors file a data set, found by a hash of everything that produced it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ood_nc.features.bank import FeatureBank
from ood_nc.features.cache_key import bank_key
from ood_nc.features.extraction import extract
from ood_nc.sealed import DamagedFileError, read_sealed, write_sealed

_log = logging.getLogger("ood_nc")


class BankStore:
    """Feature banks in a folder.

    The key is a hash of the weights, the taps with their pooling, the transform, the data set's fingerprint and the
    precision; a bank made under any other key is never read. Banks are memory mapped, so one larger than the memory
    can be used.

    Args:
        directory: the folder; made when the first bank is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def get(self, model: Any, dataset: Any, *, weights: str | None = None, **options: Any) -> FeatureBank:
        """The bank of a data set, from the folder if it is there, else extracted and kept.

        A damaged file is reported, extracted again and replaced.

        Args:
            model: as for `extract`.
            dataset: as for `extract`.
            weights: the model's `weights_hash`, where the caller already has it.
            **options: passed on to `extract`.

        Raises:
            UnreadableError: none of the images can be read.
            UserError: the folder cannot be written.
        """
        precision = {name: options[name] for name in ("amp", "amp_dtype") if name in options}
        key = bank_key(model, dataset, weights=weights, **precision)
        path = self.path(dataset.name, key)
        bank = _agreed(_load(path, key))
        if bank is not None:
            return bank
        bank = replace(extract(model, dataset, **options), key=key)
        if _rank() == 0:
            _save(bank, path)
        if _initialized():
            dist.barrier()
        # The mapped file takes the place of the copy in memory, where this machine sees it.
        return _load(path, key) or bank

    def path(self, name: str, key: str) -> Path:
        """The file of the bank of data set ``name`` under ``key``."""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}-{key[:24]}.safetensors"


def _save(bank: FeatureBank, path: Path) -> None:
    tensors = {f"tap/{name}": features for name, features in bank.taps.items()}
    # The ids go in as bytes: the header, where strings belong, is limited to 100 MB.
    ids = torch.frombuffer(bytearray(json.dumps(bank.ids).encode()), dtype=torch.uint8)
    tensors |= {"logits": bank.logits, "labels": bank.labels, "ids": ids}
    header = {"key": bank.key, "taps": list(bank.taps), "broken": bank.broken, "seconds": bank.seconds}
    write_sealed(path, tensors, header)


def _load(path: Path, key: str) -> FeatureBank | None:
    if not path.exists():
        return None
    try:
        header, tensors = read_sealed(path)
        if header["key"] != key:
            raise ValueError("it was made under another key")
        return _bank(header, tensors)
    except DamagedFileError as error:
        _log.warning("%s The features are extracted again.", error)
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("The feature bank %s is damaged (%s): extracting it again.", path, error)
    return None


def _bank(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FeatureBank:
    bank = FeatureBank(
        taps={name: tensors[f"tap/{name}"] for name in header["taps"]},
        logits=tensors["logits"],
        labels=tensors["labels"],
        ids=tuple(json.loads(bytes(tensors["ids"].numpy()).decode())),
        key=header["key"],
        broken=[(name, reason) for name, reason in header["broken"]],
        seconds=float(header["seconds"]),
    )
    rows = {len(tensor) for tensor in (*bank.taps.values(), bank.logits, bank.labels)}
    if rows != {len(bank.ids)}:
        raise ValueError(f"its tensors have {sorted(rows)} rows for {len(bank.ids)} ids")
    return bank


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _initialized() else 0


def _agreed(bank: FeatureBank | None) -> FeatureBank | None:
    """The bank if every process has it, else None for all: extraction is a joint effort."""
    if not _initialized():
        return bank
    found: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(found, bank is not None)
    return bank if all(found) else None
