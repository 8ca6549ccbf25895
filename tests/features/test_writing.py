"""A bank is written batch by batch, and what was interrupted goes on."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from ood_nc.errors import UserError
from ood_nc.features import BankStore, cache_key
from tests.helpers.fakes import TinyData, TinyModel


@pytest.fixture(autouse=True)
def _hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_key, "weights_hash", lambda model: str([p.sum().item() for p in model.parameters()]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a bank that nothing has interrupted."""
    BankStore(tmp_path / "whole").get(TinyModel(), TinyData(broken=(4,)), batch_size=3)
    return contents(tmp_path / "whole")


class Stopping(TinyModel):
    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.images >= 5:
            raise KeyboardInterrupt
        return super().forward_taps(images)


def stopped(tmp_path: Path) -> Path:
    """A folder of banks where the first two of four batches were written."""
    with pytest.raises(KeyboardInterrupt):
        BankStore(tmp_path).get(Stopping(), TinyData(broken=(4,)), batch_size=3)
    (part,) = tmp_path.iterdir()
    assert part.name.endswith(".part")
    return part


def test_an_extraction_goes_on_at_the_batch_it_stopped_at(tmp_path: Path, whole: dict[str, bytes]) -> None:
    stopped(tmp_path / "stopped")
    model = TinyModel()
    bank = BankStore(tmp_path / "stopped").get(model, TinyData(broken=(4,)), batch_size=3)
    assert model.images == 4, "of nine readable ones five were there"
    assert bank.broken == [("4.png", "OSError: truncated file 4")]
    assert contents(tmp_path / "stopped") == whole, "to the byte, and nothing else is left"


@pytest.mark.parametrize(
    ("harm", "forwarded"),
    [
        ("half a batch more", 4),
        ("a batch lost", 6),
        ("a byte of it", 6),
        ("a line cut", 6),
        ("a line", 6),
        ("no journal", 9),
    ],
)
def test_what_the_journal_does_not_vouch_for_is_forwarded_again(
    harm: str, forwarded: int, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    part = stopped(tmp_path / "stopped")
    tap, journal = part / "tap-1.safetensors", part / "journal"
    data, lines = tap.read_bytes(), journal.read_bytes().splitlines(keepends=True)
    if harm == "half a batch more":
        tap.write_bytes(data + b"half")
    elif harm == "a batch lost":
        tap.write_bytes(data[:-16])
    elif harm == "a byte of it":
        tap.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "a line cut":
        journal.write_bytes(lines[0] + lines[1][:-20])
    elif harm == "a line":
        journal.write_bytes(lines[0] + lines[1].replace(b'"stop": 6', b'"stop": 9'))
    else:
        journal.unlink()
    model = TinyModel()
    BankStore(tmp_path / "stopped").get(model, TinyData(broken=(4,)), batch_size=3)
    assert model.images == forwarded
    assert contents(tmp_path / "stopped") == whole


def test_what_was_stopped_between_its_last_steps_is_whole(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = tmp_path / "whole"
    (bank,) = folder.iterdir()
    bank.rename(folder / f".{bank.name}.part")
    model = TinyModel()
    BankStore(folder).get(model, TinyData(broken=(4,)), batch_size=3)
    assert model.images == 0 and contents(folder) == whole


def _get_and_die(folder: str, images: int) -> None:
    class Dying(TinyModel):
        def forward_taps(self, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            if self.images >= images:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward_taps(pixels)

    torch.set_num_threads(1)
    BankStore(folder).get(Dying(), TinyData(broken=(4,)), batch_size=3)


def test_killed_again_and_again_it_is_the_same_to_the_byte(tmp_path: Path, whole: dict[str, bytes]) -> None:
    context = mp.get_context("fork")
    for images in (1, 1, 3):  # of its own: each process gets one batch further, or none
        process = context.Process(target=_get_and_die, args=(str(tmp_path / "killed"), images))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    model = TinyModel()
    BankStore(tmp_path / "killed").get(model, TinyData(broken=(4,)), batch_size=3)
    assert 0 < model.images < 9 and contents(tmp_path / "killed") == whole


def test_a_full_disk_is_the_users_error_and_keeps_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    written, write = [], os.pwrite

    def full(*arguments: object) -> int:
        written.append(0)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(UserError, match="No space left"):
        patched.setattr(os, "pwrite", full)
        BankStore(tmp_path / "full").get(TinyModel(), TinyData(broken=(4,)), batch_size=3)
    model = TinyModel()
    BankStore(tmp_path / "full").get(model, TinyData(broken=(4,)), batch_size=3)
    assert model.images == 4 and contents(tmp_path / "full") == whole
