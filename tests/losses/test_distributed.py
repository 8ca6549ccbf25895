"""Across real processes, loss and averaged gradient equal those of one process on the joined batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ood_nc.losses import Objective, nearest_neighbor_entropy
from ood_nc.training.launch import leave_group

ROWS = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
SPLITS = {"equal": (4, 4), "unequal": (7, 1), "one empty": (8, 0)}


def field_case_rows() -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.randn(8, 3, dtype=torch.float64)


def step(weight: torch.Tensor, rows: torch.Tensor, average: bool, **options) -> dict:
    """Loss of ``rows @ weight`` and its gradient, averaged over processes as DistributedDataParallel does."""
    weight = weight.clone().requires_grad_()
    loss = nearest_neighbor_entropy(rows @ weight, **options)
    loss.backward()
    slope = weight.grad
    if average:
        dist.all_reduce(slope)
        slope /= dist.get_world_size()
    return {"loss": loss.item(), "slope": slope}


def cases(rank: int, world: int) -> dict:
    identity = torch.eye(3, dtype=torch.float64)
    mixing = identity + 0.3 * ROWS[:3]
    shares = {name: sizes for name, sizes in SPLITS.items() if len(sizes) == world} or {"four": (1, 4, 0, 3)}
    out = {}
    for name, sizes in shares.items():
        mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        out[name] = step(mixing, ROWS[mine], average=True)
        groups = torch.arange(8) // 2
        out[f"{name}, groups"] = step(mixing, ROWS[mine], average=True, groups=groups[mine])
    if world == 2:
        local = field_case_rows()[4 * rank : 4 * rank + 4]
        out["field case"] = step(identity, local, average=True)
        out["device"] = step(identity, local, average=False, scope="device")
        out["float32"] = step(identity.float(), local.float(), average=True)
        out["model"] = ddp_step(local)
    return out


def small_model() -> nn.Module:
    encoder = nn.Linear(3, 3, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(3) + 0.1)
        encoder.bias.zero_()
    return encoder


def ddp_step(rows: torch.Tensor) -> dict:
    model = nn.parallel.DistributedDataParallel(small_model())
    encoded = model(rows)
    loss, parts = Objective(entropy_weights={"encoder": 0.5}, smoothing=0)(
        encoded, torch.zeros(len(rows), dtype=torch.long), {"encoder": encoded}
    )
    loss.backward()
    return {"loss": parts["entropy/encoder"].item(), "slope": model.module.weight.grad}


def join_group(rank: int, world: int, folder: str) -> dict:
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=patience)
    try:
        return cases(rank, world)
    finally:
        leave_group()


def worker(index: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.save(join_group(index + 1, world, folder), f"{folder}/{index + 1}.pt")


def spawn(world: int, folder: Path) -> list[dict]:
    """The results of each process; this one is rank 0."""
    others = torch.multiprocessing.spawn(worker, args=(world, str(folder)), nprocs=world - 1, join=False)
    first = join_group(0, world, str(folder))
    while not others.join():
        pass
    return [first] + [torch.load(folder / f"{rank}.pt") for rank in range(1, world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return spawn(2, tmp_path_factory.mktemp("two"))


def joined(**options) -> dict:
    mixing = torch.eye(3, dtype=torch.float64) + 0.3 * ROWS[:3]
    return step(mixing, ROWS, average=False, **options)


def test_field_case(two: list[dict]) -> None:
    alone = step(torch.eye(3, dtype=torch.float64), field_case_rows(), average=False)
    for process in two:
        assert process["field case"]["loss"] == pytest.approx(0.640839, abs=1e-6)
        torch.testing.assert_close(process["field case"]["slope"], alone["slope"], rtol=1e-12, atol=1e-14)
        assert process["float32"]["loss"] == pytest.approx(0.640839, abs=1e-5)
        torch.testing.assert_close(process["float32"]["slope"].double(), alone["slope"], rtol=1e-4, atol=1e-5)


def test_device_scope_stays_local(two: list[dict]) -> None:
    assert two[0]["device"]["loss"] == pytest.approx(-0.069648, abs=1e-6)
    assert two[1]["device"]["loss"] == pytest.approx(-0.031046, abs=1e-6)


@pytest.mark.parametrize("name", SPLITS)
def test_equals_one_process_whatever_the_split(two: list[dict], name: str) -> None:
    for process in two:
        for case, alone in ((name, joined()), (f"{name}, groups", joined(groups=torch.arange(8) // 2))):
            assert process[case]["loss"] == pytest.approx(alone["loss"], rel=1e-12)
            torch.testing.assert_close(process[case]["slope"], alone["slope"], rtol=1e-12, atol=1e-14)


def test_objective_under_distributed_data_parallel(two: list[dict]) -> None:
    model, rows = small_model(), field_case_rows()
    encoded = model(rows)
    loss, parts = Objective(entropy_weights={"encoder": 0.5}, smoothing=0)(
        encoded, torch.zeros(len(rows), dtype=torch.long), {"encoder": encoded}
    )
    loss.backward()
    for process in two:
        assert process["model"]["loss"] == pytest.approx(parts["entropy/encoder"].item(), rel=1e-12)
        torch.testing.assert_close(process["model"]["slope"], model.weight.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    for process in spawn(4, tmp_path):
        for case, alone in (("four", joined()), ("four, groups", joined(groups=torch.arange(8) // 2))):
            assert process[case]["loss"] == pytest.approx(alone["loss"], rel=1e-12)
            torch.testing.assert_close(process[case]["slope"], alone["slope"], rtol=1e-12, atol=1e-14)
