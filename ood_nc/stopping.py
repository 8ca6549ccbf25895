"""SIGTERM, which schedulers and supervisors send, ends what is running as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_termination() -> Iterator[list[int]]:
    """Let the first SIGTERM wait, in the list that the block is given, until it suits; a second one interrupts."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def termination_interrupts(came: list[int] | None = None) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that a scheduler's stop leaves the same files.

    Args:
        came: gets the number of each of the two signals that comes: some libraries make an error of their own of the
            ``KeyboardInterrupt`` that is raised inside them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if came is not None:
            came.append(number)
        raise KeyboardInterrupt

    # Ctrl-C is left alone where somebody ignores it (nohup) or handles it.
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    numbers = [signal.SIGTERM, *([signal.SIGINT] if plain else [])]
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interruptible_wait() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the process while the block waits for others inside a library.

    Python's handlers run when such a call returns, which may take half an hour. Where the block has not ended a second
    after the signal, the process says one line and is gone, with 130.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        """Read the signals that Python notes by their bytes, and end the process where its own handler cannot run."""
        with ours:
            while number := ours.recv(1):
                if number[0] in (signal.SIGTERM, signal.SIGINT) and not ended.wait(1.0):
                    sys.stderr.write("ood-nc: interrupted while waiting for the other processes.\n")
                    sys.stderr.flush()
                    os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
    previous = signal.set_wakeup_fd(pythons.fileno())
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        pythons.close()  # ends the thread, if no signal has
