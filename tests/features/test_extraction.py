from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ood_nc.features import UnreadableError, extract, forwarded
from ood_nc.models import ControlledModel
from ood_nc.training.launch import leave_group
from tests.helpers.fakes import TinyData, TinyModel


def expected(data: TinyData) -> dict[str, torch.Tensor]:
    model = TinyModel()
    stem = data.images.flatten(1)
    encoder = stem @ model.first.detach().T
    return {"stem": stem, "encoder": encoder, "logits": encoder @ model.head.detach().T}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (4, 2), (100, 1)])
def test_every_image_once_in_data_set_order(batch_size: int, workers: int) -> None:
    model, data = TinyModel(), TinyData(slow=workers > 1)
    bank = extract(model, data, batch_size=batch_size, workers=workers)
    want = expected(data)
    assert model.images == 10
    assert bank.ids == data.ids and bank.labels.tolist() == data.targets.tolist() and len(bank) == 10
    assert list(bank.taps) == ["stem", "encoder"]
    assert torch.equal(bank.taps["stem"], want["stem"])
    torch.testing.assert_close(bank.taps["encoder"], want["encoder"])
    torch.testing.assert_close(bank.logits, want["logits"])
    assert bank.seconds > 0 and bank.broken == []


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_listed(workers: int) -> None:
    data = TinyData(broken=(2, 7))
    bank = extract(TinyModel(), data, batch_size=2, workers=workers)
    keep = [0, 1, 3, 4, 5, 6, 8, 9]
    assert bank.ids == tuple(data.ids[i] for i in keep)
    assert bank.labels.tolist() == data.targets[keep].tolist()
    assert torch.equal(bank.taps["stem"], expected(data)["stem"][keep])
    assert len(bank.logits) == 8
    assert bank.broken == [("2.png", "OSError: truncated file 2"), ("7.png", "OSError: truncated file 7")]


def test_a_batch_of_broken_images_alone_is_passed_over() -> None:
    bank = extract(TinyModel(), TinyData(broken=(2, 3)), batch_size=2)
    assert len(bank) == 8


def test_no_readable_image_is_the_users_error() -> None:
    with pytest.raises(UnreadableError, match=r"None of the 2 images of tiny can be read.*truncated") as caught:
        extract(TinyModel(), TinyData(2, broken=(0, 1)))
    assert "\n" not in str(caught.value)


def test_an_empty_set_gives_an_empty_bank() -> None:
    bank = extract(TinyModel(), TinyData(0))
    assert len(bank) == 0 and bank.taps["stem"].shape == (0, 12)


def test_the_model_is_evaluated_and_its_mode_restored() -> None:
    model = TinyModel().train()
    first, second = (extract(model, TinyData()).taps["encoder"] for _ in range(2))
    assert torch.equal(first, second), "dropout is off"
    assert model.training
    with pytest.raises(RuntimeError, match="no forward"):
        model.forward_taps = _fail  # type: ignore[method-assign]
        extract(model, TinyData())
    assert model.training


def _fail(images: torch.Tensor) -> None:
    raise RuntimeError("no forward")


class Layouts(nn.Module):
    """A convolution that notes the layout of its images, and what reads its maps."""

    num_classes = 2

    def __init__(self, *, views: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.rest, self.views = nn.Conv2d(3, 4, 2), nn.Linear(16, 2), views
        self.seen: list[bool] = []
        self.tap_info = {"stem": SimpleNamespace(dim=16)}

    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        maps = self.stem(images)
        rows = maps.view(len(maps), -1) if self.views else maps.flatten(1)
        return self.rest(rows), {"stem": rows}


@pytest.mark.parametrize("views", [False, True])
def test_images_are_channels_last_where_the_network_takes_them(views: bool) -> None:
    data = TinyData()
    data.images = torch.randn(10, 3, 3, 3)
    model = Layouts(views=views)
    bank = extract(model, data, batch_size=4)
    assert model.seen == ([True, False, False, False] if views else [True, True, True])
    with torch.no_grad():
        expected = model.stem(data.images).flatten(1)
    torch.testing.assert_close(bank.taps["stem"], expected, rtol=1e-6, atol=1e-6)


def test_taps_of_a_convolutional_network_are_the_same_to_a_millionth() -> None:
    model = ControlledModel("resnet18", 5, projector=None, taps=("stages", "encoder"), img_size=32).eval()
    data = TinyData(6)
    data.images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    bank = extract(model, data, batch_size=4)
    with torch.no_grad():
        expected = [model.forward_taps(part)[1] for part in data.images.split(4)]
    for name, rows in bank.taps.items():
        wanted = torch.cat([part[name] for part in expected])
        assert float((rows - wanted).norm() / wanted.norm()) < 1e-6, name


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Of each pass of a controlled model: whether it is in the caller's thread, and how many images it has."""
    seen: list[tuple[bool, int]] = []
    forward = ControlledModel.forward

    def watched(self: ControlledModel, images: torch.Tensor, **options: Any) -> Any:
        seen.append((threading.current_thread() is threading.main_thread(), len(images)))
        return forward(self, images, **options)

    monkeypatch.setattr(ControlledModel, "forward", watched)
    return seen


def convnet() -> ControlledModel:
    torch.manual_seed(0)
    return ControlledModel("resnet18", 5, projector=None, taps=("stages", "encoder"), img_size=32).eval()


def pictures(n: int, broken: tuple[int, ...] = ()) -> TinyData:
    data = TinyData(n, broken)
    data.images = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return data


def test_passes_beside_each_other_give_what_one_after_the_other_gives(
    two_threads: None, passes: list[tuple[bool, int]]
) -> None:
    model, data = convnet(), pictures(150, broken=(3, 70, 149))
    beside = list(forwarded(model, data, batch_size=64))
    assert sorted(passes) == [(False, 10), (False, 11), (False, 31), (False, 31), (False, 32), (False, 32)]
    assert torch.get_num_threads() == 2
    resumed = list(forwarded(model, data, batch_size=64, start=64))
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(resumed, beside[1:], strict=True))
    torch.set_num_threads(1)
    passes.clear()
    one_by_one = list(forwarded(model, data, batch_size=64))
    assert passes == [(True, 63), (True, 63), (True, 21)]
    for one, other in zip(beside, one_by_one, strict=True):
        assert (one.stop, one.unread) == (other.stop, other.unread) and torch.equal(one.rows, other.rows)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-5)
        for name, features in one.taps.items():
            torch.testing.assert_close(features, other.taps[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_passes_of_what_may_not_run_in_threads_stay_with_the_caller(
    two_threads: None, passes: list[tuple[bool, int]]
) -> None:
    hooked, compiled = convnet(), convnet()
    hooked.backbone.layer1.register_forward_hook(lambda *seen: None)
    compiled.backbone.maxpool.compile(backend="eager")
    own = ControlledModel(timm.create_model("test_resnet"), 5, projector=None, taps=("encoder",))
    for model in (hooked, compiled, own):
        assert not model.runs_in_threads
        extract(model, pictures(64), batch_size=64)
        assert passes and all(caller for caller, _ in passes)
        passes.clear()
    extract(convnet(), pictures(63), batch_size=63)
    assert passes == [(True, 63)], "parts would be too small"


def test_leaving_early_leaves_nothing_running(two_threads: None, passes: list[tuple[bool, int]]) -> None:
    model = convnet().train()
    stride = model.backbone.conv1.weight.stride()
    batches = forwarded(model, pictures(640), batch_size=64)
    next(batches)
    batches.close()
    assert len(passes) <= 6 and torch.get_num_threads() == 2
    assert model.training and model.backbone.conv1.weight.stride() == stride


def test_what_a_pass_beside_others_raises_is_raised(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = convnet()
    monkeypatch.setattr(model.backbone.global_pool, "forward", _fail)
    with pytest.raises(RuntimeError, match="no forward"):
        extract(model, pictures(128), batch_size=64)
    assert torch.get_num_threads() == 2


def test_banks_are_float32_under_autocast() -> None:
    bank = extract(TinyModel(), TinyData(), amp=True, amp_dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in (*bank.taps.values(), bank.logits)} == {torch.float32}
    want = expected(TinyData())["encoder"]
    torch.testing.assert_close(bank.taps["encoder"], want, rtol=0.03, atol=0.05)
    assert not torch.equal(bank.taps["encoder"], want), "autocast was on"


def test_autocast_of_the_caller_changes_nothing() -> None:
    want = extract(TinyModel(), TinyData())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bank = extract(TinyModel(), TinyData())
    assert torch.equal(bank.taps["encoder"], want.taps["encoder"]) and torch.equal(bank.logits, want.logits)


def _extract_in_process(rank: int, world: int, port: int, n: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = TinyModel()
    bank = extract(model, TinyData(n, broken=(1,)), batch_size=2)
    torch.save(
        (bank.taps, bank.logits, bank.labels, bank.ids, bank.broken, model.images), f"{folder}/{world}-{rank}.pt"
    )
    leave_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(("n", "worlds"), [(10, (2, 3)), pytest.param(10, (4,), marks=pytest.mark.slow), (3, (3,))])
def test_case_46_the_number_of_processes_changes_nothing(n: int, worlds: tuple[int, ...], tmp_path: Path) -> None:
    alone = extract(TinyModel(), TinyData(n, broken=(1,)), batch_size=2)
    for world in worlds:
        mp.start_processes(
            _extract_in_process, args=(world, _free_port(), n, str(tmp_path)), nprocs=world, start_method="fork"
        )
        forwarded = 0
        for rank in range(world):
            taps, logits, labels, ids, broken, images = torch.load(tmp_path / f"{world}-{rank}.pt")
            assert ids == alone.ids and broken == alone.broken and torch.equal(labels, alone.labels)
            assert torch.equal(logits, alone.logits)
            assert all(torch.equal(taps[name], alone.taps[name]) for name in alone.taps)
            forwarded += images
        assert forwarded == n - 1, "no sample is padded or repeated"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_give_float32_banks(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = ControlledModel("cifar_resnet20", 3, taps=("layer1", "encoder"), img_size=16)
    plain = extract(model, Pictures())
    bank = extract(model.to(dtype), Pictures())
    assert {tensor.dtype for tensor in (bank.logits, *bank.taps.values())} == {torch.float32}
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(bank.taps["encoder"], plain.taps["encoder"], rtol=tolerance, atol=tolerance)


class Pictures(TinyData):
    def __init__(self) -> None:
        super().__init__(6)
        self.images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
