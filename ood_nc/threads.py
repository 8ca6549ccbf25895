"""Threads and cores: calls beside each other that share them, and libraries that do not wait for each other."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

Begin = Callable[..., Callable[[], Any]]
"""Takes a call (function and arguments) and returns what waits for its result."""


@contextmanager
def beside_each_other(workers: int) -> Iterator[Begin]:
    """Begin calls inside the block, that many at once.

    Where an error ends the block (Ctrl-C, say), those that have not begun never do, and those that run are ended at
    their next step in Python.

    Args:
        workers: threads; with one there is none, and a call runs when it is waited for.
    """
    if workers < 2:
        yield functools.partial
        return
    threads, running = torch.get_num_threads(), set[int]()
    share = max(1, threads // workers)

    def share_of_cores() -> None:
        # Both hold for the calling thread, the second for faiss too; the first also for threads that begin meanwhile.
        torch.set_num_threads(share)
        threadpool_limits(share, user_api="openmp")

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        running.add(threading.get_ident())
        try:
            return function(*arguments)
        finally:
            running.discard(threading.get_ident())

    pool = ThreadPoolExecutor(workers, initializer=share_of_cores)
    try:
        with one_blas_thread():
            yield lambda *call: pool.submit(run, *call).result
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for thread in tuple(running):
            _end(thread)
        raise
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)


def _end(thread: int) -> None:
    """Raise SystemExit in a thread: a pass over a batch may take minutes, and who wants to stop would wait for it."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's linear algebra on one thread inside, in the whole process.

    Their BLAS has threads of its own, and beside torch's the two wait for each other: small products and decompositions
    take twice as long with them. Blocks may overlap, in several threads too: the last to be left ends it.
    """
    global _blocks, _limit
    with _lock:
        if not _blocks:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                _limit.restore_original_limits()


_WHEELS = ("numpy.libs", "scipy.libs", "numpy/.dylibs", "scipy/.dylibs")
_lock, _blocks = threading.Lock(), 0
_limit: Any = None


@functools.cache
def _libraries() -> ThreadpoolController:
    """What the wheels of NumPy and SciPy bring along: one that they share with torch or faiss is left as it is.

    To look for them takes milliseconds, so once.
    """
    loaded = ThreadpoolController()
    paths = [library.filepath for library in loaded.lib_controllers]
    return loaded.select(filepath=[path for path in paths if any(folder in path for folder in _WHEELS)])


def in_order(begun: Iterable[Callable[[], Any]], ahead: int) -> Iterator[Any]:
    """The results of calls in the order of their beginning.

    Args:
        begun: begins a call at each step.
        ahead: calls that are begun beyond the one that is waited for.
    """
    waiting = deque[Callable[[], Any]]()
    for call in begun:
        waiting.append(call)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
