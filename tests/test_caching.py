"""Properties that are computed once, without a lock that all instances share."""

import threading

import pytest

from ood_nc.caching import cached_property


class Thing:
    def __init__(self, barrier: threading.Barrier | None = None) -> None:
        self.barrier, self.looks = barrier, 0

    @cached_property
    def value(self) -> int:
        """A number."""
        if self.barrier is not None:
            self.barrier.wait(timeout=5)
        self.looks += 1
        return 7


def test_it_is_computed_once_and_may_be_set_and_deleted() -> None:
    thing = Thing()
    assert (thing.value, thing.value, thing.looks) == (7, 7, 1)
    vars(thing)["value"] = 8
    assert thing.value == 8
    del thing.value
    assert (thing.value, thing.looks) == (7, 2)
    assert isinstance(Thing.value, cached_property) and Thing.value.__doc__ == "A number."


def test_threads_compute_those_of_their_own_objects_at_once() -> None:
    barrier = threading.Barrier(2)
    things = [Thing(barrier), Thing(barrier)]
    threads = [threading.Thread(target=lambda thing=thing: thing.value) for thing in things]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [thing.looks for thing in things] == [1, 1]


def test_an_error_leaves_nothing_behind() -> None:
    thing = Thing(threading.Barrier(1))
    thing.barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        thing.value  # noqa: B018
    assert "value" not in vars(thing)
