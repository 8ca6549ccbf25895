"""SIGTERM as Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from ood_nc.cli import main
from ood_nc.stopping import interruptible_wait, termination_interrupts


def test_sigterm_is_an_interrupt_inside_and_what_it_was_outside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    finished = []

    def work() -> None:
        with termination_interrupts():
            finished.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert finished == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_that_a_library_turns_into_an_error_is_an_interrupt(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise RuntimeError("a validator failed") from None
        return 0

    monkeypatch.setattr("ood_nc.cli._run", run)
    # A test run in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["list", "taps"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "ood-nc: interrupted.\n"


WAIT = """
import ctypes, threading
from ood_nc.stopping import interruptible_wait, termination_interrupts
mutex, lock = (ctypes.c_byte * 64)(), ctypes.CDLL(None).pthread_mutex_lock
with termination_interrupts(), interruptible_wait():
    lock(mutex)
    threading.Timer(1, print, ["waits"], {"flush": True}).start()  # by then it is inside
    lock(mutex)  # for ever, and no signal makes it return
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wait_inside_a_library_can_be_ended(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "waits\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "ood-nc: interrupted while waiting for the other processes.\n"


def test_an_interrupt_that_reaches_python_is_one() -> None:
    before = signal.set_wakeup_fd(-1)
    with pytest.raises(KeyboardInterrupt), termination_interrupts(), interruptible_wait():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.set_wakeup_fd(before) == -1
