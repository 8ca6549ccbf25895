from __future__ import annotations

import errno
import logging
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import SafetensorError

from ood_nc import sealed
from ood_nc.errors import UserError
from ood_nc.features import BankStore, cache_key, store
from tests.helpers.fakes import TinyData, TinyModel


@pytest.fixture(autouse=True)
def _hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_key, "weights_hash", lambda model: str([p.sum().item() for p in model.parameters()]))


def test_the_second_reading_runs_no_model_and_equals_the_first(tmp_path: Path) -> None:
    model = TinyModel()
    first = BankStore(tmp_path).get(model, TinyData(broken=(4,)), batch_size=4)
    again = BankStore(tmp_path).get(model, TinyData(broken=(4,)), batch_size=3)
    assert model.images == 9, "broken images are remembered too"
    assert again.ids == first.ids and again.broken == first.broken == [("4.png", "OSError: truncated file 4")]
    assert again.key == first.key and again.seconds == first.seconds
    assert list(again.taps) == list(first.taps)
    for one, other in (
        (first.logits, again.logits),
        (first.labels, again.labels),
        *zip(first.taps.values(), again.taps.values(), strict=True),
    ):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert [path.name.startswith("tiny-") for path in tmp_path.iterdir()] == [True]


class Shift:
    def __init__(self, by: float) -> None:
        self.by = by

    def __repr__(self) -> str:
        return "Shift()"


def changed() -> dict[str, tuple[TinyModel, TinyData, dict]]:
    """One thing changed at a time."""
    weights, taps, data, transform, other_transform, longer = (
        TinyModel(),
        TinyModel(),
        TinyData(),
        TinyData(),
        TinyData(),
        TinyData(11),
    )
    weights.head.data += 0.1
    taps.tap_info["encoder"] = SimpleNamespace(name="encoder", depth=1, pooling="max", dim=4, nonnegative=None)
    data.content = "b"
    transform.transform = Shift(1.0)
    other_transform.transform = Shift(2.0)
    return {
        "weights": (weights, TinyData(), {}),
        "pooling": (taps, TinyData(), {}),
        "content": (TinyModel(), data, {}),
        "length": (TinyModel(), longer, {}),
        "transform": (TinyModel(), transform, {}),
        "transform with the same name": (TinyModel(), other_transform, {}),
        "float16": (TinyModel(), TinyData(), {"amp": True, "amp_dtype": torch.float16}),
        "bfloat16": (TinyModel(), TinyData(), {"amp": True, "amp_dtype": torch.bfloat16}),
    }


def test_whatever_changes_a_bank_changes_its_key(tmp_path: Path) -> None:
    keys = {"same": BankStore(tmp_path).get(TinyModel(), TinyData()).key}
    for name, (model, data, options) in changed().items():
        keys[name] = BankStore(tmp_path).get(model, data, **options).key
        assert model.images == len(data), f"{name}: extracted anew"
    assert len(set(keys.values())) == len(keys)
    assert BankStore(tmp_path).get(TinyModel(), TinyData(), amp=True).key not in (keys["same"], keys["bfloat16"])


def test_a_transform_that_cannot_be_described_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    model, data = TinyModel(), TinyData()
    data.transform = lambda image: image
    for _ in range(2):
        BankStore(tmp_path).get(model, data)
    assert model.images == 20


@pytest.mark.parametrize("damage", ["one bit", "truncated", "garbage", "empty", "other key", "rows"])
def test_a_damaged_file_is_extracted_again_with_a_note(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, folder = TinyModel(), BankStore(tmp_path)
    bank = folder.get(model, TinyData())
    path = folder.path("tiny", bank.key)
    content = path.read_bytes()
    path.unlink()  # the bank in use keeps the old file
    if damage == "one bit":
        place = content.rindex(bank.logits.numpy().tobytes())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * len(content))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other key":
        store._save(replace(bank, key="0" * 64), path)
    else:
        store._save(replace(bank, logits=bank.logits[:5]), path)
    with caplog.at_level(logging.WARNING, logger="ood_nc"):
        again = folder.get(model, TinyData())
    assert model.images == 20 and torch.equal(again.logits, bank.logits)
    assert len(caplog.messages) == 1 and str(path) in caplog.text and "again" in caplog.text
    caplog.clear()
    folder.get(model, TinyData())
    assert model.images == 20 and not caplog.messages, "it was mended"


def test_a_full_disk_is_the_users_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        BankStore(tmp_path).get(TinyModel(), TinyData())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what is mapped")
def test_a_bank_is_memory_mapped(tmp_path: Path) -> None:
    folder = BankStore(tmp_path)
    folder.get(TinyModel(), TinyData())
    bank = folder.get(TinyModel(), TinyData())
    with open("/proc/self/maps") as maps:
        assert str(folder.path("tiny", bank.key)) in maps.read()


def test_names_of_any_kind_make_file_names(tmp_path: Path) -> None:
    data = TinyData()
    data.name = "a/b::c d" * 40
    bank = BankStore(tmp_path).get(TinyModel(), data)
    assert BankStore(tmp_path).path(data.name, bank.key).parent == tmp_path
    assert len(list(tmp_path.iterdir())) == 1


def _get_in_process(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = TinyModel()
    cache_key.weights_hash = lambda model: "same"
    banks = [BankStore(folder).get(model, TinyData(), batch_size=2) for _ in range(2)]
    torch.save((model.images, banks[1].ids, banks[0].logits, banks[1].logits), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_share_one_file(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.start_processes(_get_in_process, args=(2, port, str(tmp_path)), nprocs=2, start_method="fork")
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    forwarded = 0
    for rank in range(2):
        images, ids, first, second = torch.load(tmp_path / f"{rank}.pt")
        assert ids == TinyData().ids and torch.equal(first, second)
        forwarded += images
    assert forwarded == 10, "the second reading runs no model in any process"
