"""Which process this one is, and what it may start."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

from ood_nc import processes
from ood_nc.data import ImageStream, eval_transform, open_dataset, scan
from ood_nc.data import dataset as module
from ood_nc.features import ImageBatches, forwarded
from ood_nc.models import ControlledModel
from ood_nc.processes import bounded_workers, is_main_process
from ood_nc.training.loading import eval_loader, train_loader


def test_the_first_process_is_the_main_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert is_main_process()  # left over from elsewhere
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_main_process()


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(processes, "cores", lambda: 16)
    bounded_workers.cache_clear()
    yield
    bounded_workers.cache_clear()


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(("beside", "most"), [("1", 64), ("4", 16), ("64", 8)])
def test_workers_are_bounded_by_the_cores_that_a_process_has(
    beside: str, most: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
    with caplog.at_level(logging.WARNING):
        assert [bounded_workers(number) for number in (0, 1, most)] == [0, 1, most]
        assert not caplog.records
        assert [bounded_workers(1000) for _ in range(3)] == [most] * 3
    (record,) = caplog.records
    assert record.getMessage() == f"1000 workers are too many for 16 cores: {most} load images."


@pytest.mark.usefixtures("sixteen_cores")
def test_every_door_for_workers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FEW", "_A_CORE"):
        monkeypatch.setattr(processes, name, 1)
    monkeypatch.setattr(processes, "cores", lambda: 1)
    started: list[int] = []
    loader, threads = DataLoader.__init__, module.ThreadPoolExecutor

    def start_loader(self: DataLoader, *arguments: Any, num_workers: int, **options: Any) -> None:
        started.append(num_workers)
        loader(self, *arguments, num_workers=num_workers, **options)

    def start_threads(max_workers: int) -> Any:
        started.append(max_workers)
        return threads(max_workers)

    monkeypatch.setattr(DataLoader, "__init__", start_loader)
    monkeypatch.setattr(module, "ThreadPoolExecutor", start_threads)
    model = ControlledModel("test_resnet", 5, img_size=32).eval()
    images = open_dataset("bundled/digits-id::test").with_transform(eval_transform(model.preprocessing))
    for number, door in enumerate(
        (
            lambda: scan(images, workers=1000),
            lambda: ImageStream(["bundled/digits-near"], images.transform).loader(1000),
            lambda: next(iter(ImageBatches(images, workers=1000))),
            lambda: next(iter(forwarded(model, images, workers=1000))),
            lambda: train_loader(images, batch_size=4, workers=1000),
            lambda: eval_loader(images, batch_size=4, workers=1000),
        )
    ):
        door()
        assert started == [1] * (number + 1)
