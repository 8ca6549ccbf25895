from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from threadpoolctl import ThreadpoolController

from ood_nc import threads
from ood_nc.threads import beside_each_other, in_order, one_blas_thread


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


def test_an_error_ends_what_runs_and_what_has_not_begun() -> None:
    begun: list[int] = []
    both = threading.Barrier(3)

    def endless(value: int) -> None:
        begun.append(value)
        both.wait(timeout=10)
        while True:
            time.sleep(0.001)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), beside_each_other(2) as begin:
        for value in range(50):
            begin(endless, value)
        both.wait(timeout=10)
        raise KeyboardInterrupt
    assert sorted(begun) == [0, 1] and torch.get_num_threads() == 2
    assert time.monotonic() - start < 10


def test_calls_that_nobody_waits_for_run_to_their_end_where_there_is_no_error() -> None:
    seen: list[int] = []
    with beside_each_other(2) as begin:
        for value in range(20):
            begin(seen.append, value)
    assert sorted(seen) == list(range(20))


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


def blas_threads() -> list[int]:
    return [library.num_threads for library in threads._libraries().lib_controllers]


def test_blas_of_numpy_and_scipy_has_one_thread_until_the_last_block_is_left() -> None:
    first, second = one_blas_thread(), one_blas_thread()
    with threads._libraries().limit(limits=2):
        before = blas_threads()
        first.__enter__()
        second.__enter__()
        assert set(blas_threads()) <= {1}
        first.__exit__(None, None, None)
        assert set(blas_threads()) <= {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before


def test_only_what_numpy_and_scipy_bring_along_is_limited() -> None:
    limited = {library.filepath for library in threads._libraries().lib_controllers}
    others = {library.filepath for library in ThreadpoolController().lib_controllers} - limited
    assert all("numpy" in path or "scipy" in path for path in limited)
    assert not any("numpy.libs" in path or "scipy.libs" in path for path in others)
