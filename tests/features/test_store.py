from __future__ import annotations

import logging
import shutil
import socket
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchvision.transforms import ToTensor

from ood_nc.config import PixelConfig
from ood_nc.data import eval_transform, open_dataset
from ood_nc.errors import UserError
from ood_nc.features import BankStore, UnreadableError, cache_key, extract
from ood_nc.features.cache_key import bank_key
from ood_nc.files import write_lock
from ood_nc.models import ControlledModel
from ood_nc.sealed import RowFile
from ood_nc.training.launch import leave_group
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
    assert again.key == first.key and first.seconds > again.seconds == 0
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


def test_another_network_of_the_same_weights_has_another_bank(tmp_path: Path) -> None:
    images = open_dataset("bundled/digits-id::test", limit=3)
    average, largest = (
        ControlledModel("test_resnet", 5, img_size=32, backbone_options=options).eval()
        for options in ({}, {"global_pool": "max"})
    )
    largest.load_state_dict(average.state_dict())
    images = images.with_transform(eval_transform(average.preprocessing))
    banks = [BankStore(tmp_path).get(model, images) for model in (average, largest, average)]
    assert banks[0].key == banks[2].key != banks[1].key
    assert torch.equal(banks[1].taps["encoder"], extract(largest, images).taps["encoder"])


def test_images_read_by_other_rules_have_another_bank(tmp_path: Path) -> None:
    data = open_dataset("bundled/digits-id::test", limit=3)
    white, black = (
        data.with_pixels(PixelConfig(background=ground)).with_transform(ToTensor()) for ground in ("white", "black")
    )
    model = ControlledModel("test_resnet", 5, img_size=32)
    keys = {bank_key(model, images) for images in (white, black, white)}
    assert len(keys) == 2


def test_a_transform_that_cannot_be_described_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    model, data = TinyModel(), TinyData()
    data.transform = lambda image: image
    for _ in range(2):
        BankStore(tmp_path).get(model, data)
    assert model.images == 20


@pytest.mark.parametrize("file", ["tap-1.safetensors", "logits.safetensors", "index"])
@pytest.mark.parametrize("damage", ["one bit", "truncated", "garbage", "empty", "missing", "of another bank"])
def test_a_damaged_file_is_extracted_again_with_a_note(
    damage: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, folder = TinyModel(), BankStore(tmp_path)
    bank = folder.get(model, TinyData())
    path = folder.path("tiny", bank.key) / file
    content = path.read_bytes()
    path.unlink()  # the bank in use keeps the old file
    if damage == "one bit":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * len(content))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "of another bank":
        other = folder.get(TinyModel(), TinyData(7))
        path.write_bytes((folder.path("tiny", other.key) / path.name).read_bytes())
    with caplog.at_level(logging.WARNING, logger="ood_nc"):
        again = folder.get(model, TinyData())
    assert model.images == 20 and torch.equal(again.logits, bank.logits)
    assert len(caplog.messages) == 1 and str(path.parent) in caplog.text and "again" in caplog.text
    caplog.clear()
    folder.get(model, TinyData())
    assert model.images == 20 and not caplog.messages, "it was mended"


def test_files_of_one_bank_that_differ_in_rows_are_damaged(tmp_path: Path) -> None:
    model, folder = TinyModel(), BankStore(tmp_path)
    key = folder.get(model, TinyData()).key
    path = folder.path("tiny", key) / "logits.safetensors"
    path.unlink()
    short = RowFile(path, 3, torch.float32, 10, {"key": key})
    short.append(torch.zeros(5, 3))
    short.seal()
    short.close()
    assert len(folder.get(model, TinyData()).logits) == 10 and model.images == 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_features_alone(dtype: torch.dtype, tmp_path: Path) -> None:
    exact, half = BankStore(tmp_path), BankStore(tmp_path, dtype)
    model = TinyModel()
    first = exact.get(model, TinyData())
    for _ in range(2):
        bank = half.get(model, TinyData())
        assert torch.equal(bank.logits, first.logits) and bank.key != first.key
        for name, features in bank.taps.items():
            assert features.dtype == dtype and torch.equal(features, first.taps[name].to(dtype))
    assert model.images == 20


def test_what_float16_cannot_hold_is_one_line(tmp_path: Path) -> None:
    model = TinyModel()
    model.first.data *= 1e5
    with pytest.raises(UserError, match=r"tap 'encoder' is .*float16 ends at 6.55e\+04: .*bfloat16 or float32\.$"):
        BankStore(tmp_path, torch.float16).get(model, TinyData())
    BankStore(tmp_path, torch.bfloat16).get(model, TinyData())


def test_what_the_disk_cannot_hold_is_refused_before_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = TinyModel(), TinyData()
    needed = 10 * (2 * (12 + 4) + 4 * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    store = BankStore(tmp_path / "features", torch.float16)
    with pytest.raises(
        UserError, match=f"features of tiny take {needed} bytes more and .* has {needed - 1} free"
    ) as told:
        store.get(model, data)
    assert "\n" not in str(told.value) and model.images == 0 and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    with pytest.raises(UserError, match=f"take {2 * needed} bytes more"):
        store.check_space(model, [data, TinyData(10, broken=(1,))])
    store.get(model, data)
    store.check_space(model, [data, TinyData(10, broken=(1,))])


def test_a_bank_that_another_process_makes_is_waited_for(tmp_path: Path) -> None:
    model, folder = TinyModel(), BankStore(tmp_path)
    path = folder.path("tiny", folder.get(model, TinyData()).key)
    with futures.ThreadPoolExecutor() as pool:
        with write_lock(path):
            path.rename(tmp_path / "elsewhere")
            waiting = pool.submit(folder.get, model, TinyData())
            with pytest.raises(futures.TimeoutError):
                waiting.result(timeout=0.2)
            (tmp_path / "elsewhere").rename(path)
        assert len(waiting.result(timeout=60)) == 10
    assert model.images == 10


def test_nothing_is_kept_of_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="None of the 2 images"):
        BankStore(tmp_path).get(TinyModel(), TinyData(2, broken=(0, 1)))
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
    leave_group()


def test_processes_share_one_file(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.start_processes(_get_in_process, args=(2, port, str(tmp_path)), nprocs=2, start_method="fork")
    assert len(list(tmp_path.glob("tiny-*"))) == 1 and not list(tmp_path.glob(".*"))
    forwarded = 0
    for rank in range(2):
        images, ids, first, second = torch.load(tmp_path / f"{rank}.pt")
        assert ids == TinyData().ids and torch.equal(first, second)
        forwarded += images
    assert forwarded == 10, "the second reading runs no model in any process"
