from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from ood_nc.threads import beside_each_other, in_order


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_calls_run_at_once_each_with_its_share_and_the_caller_has_all_again() -> None:
    both = threading.Barrier(2)

    def call(value: int) -> tuple[int, int, bool]:
        both.wait(timeout=10)  # passes only where two calls are here
        return value, torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    with beside_each_other(2) as begin:
        waits = [begin(call, value) for value in (3, 4)]
        assert [wait() for wait in waits] == [(3, 1, False), (4, 1, False)]
    assert torch.get_num_threads() == 2


def test_one_worker_is_the_caller_at_the_time_it_waits() -> None:
    seen: list[int] = []
    with beside_each_other(1) as begin:
        waits = [begin(seen.append, value) for value in (1, 2)]
        assert seen == []
        waits[1]()
        assert seen == [2]


def test_what_has_not_begun_when_the_block_is_left_never_does() -> None:
    seen: list[int] = []
    gate = threading.Event()

    def call(value: int) -> None:
        gate.wait(timeout=10)
        seen.append(value)

    with pytest.raises(KeyError), beside_each_other(2) as begin:
        for value in range(50):
            begin(call, value)
        gate.set()
        raise KeyError
    assert len(seen) < 50 and torch.get_num_threads() == 2


@pytest.mark.parametrize("ahead", [0, 1, 3, 10])
def test_results_come_in_order_and_no_more_is_begun_than_asked_for(ahead: int) -> None:
    begun: list[int] = []

    def begin(value: int) -> Callable[[], int]:
        begun.append(value)
        return lambda: value

    given = []
    for value in in_order((begin(value) for value in range(5)), ahead):
        given.append(value)
        assert len(begun) == min(5, len(given) + ahead)
    assert given == list(range(5))
