"""Atomic files and the writer's lock, with real processes that die."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from ood_nc.errors import UserError
from ood_nc.files import atomic_path, is_being_written, write_lock, write_text

HOLD = """
import os, sys, time
if "slow" in sys.argv:  # its child lets go of the lock long after the fork
    os.register_at_fork(after_in_child=lambda: time.sleep(1))
from ood_nc.files import atomic_path, write_lock
with write_lock(sys.argv[1]), atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    temporary.with_name(".tmpX").write_text("half")  # as safetensors does, which then renames it
    if len(sys.argv) > 2 and os.fork() == 0:  # as a process that loads images
        time.sleep(30)
    print("held", flush=True)
    time.sleep(30)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock of a path and is half through writing it."""
    started = []

    def start(target, *more):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(target), *more],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_writer_at_a_time_and_who_it_is(tmp_path, hold):
    target = tmp_path / "scores.csv"
    process = hold(target)
    with (
        pytest.raises(UserError, match=rf"being written by process {process.pid} on \S+ \(since .* UTC\)"),
        write_lock(target),
    ):
        raise AssertionError
    with write_lock(tmp_path / "other.csv"):
        pass


def test_a_lock_is_gone_afterwards_and_not_shared_within_a_process(tmp_path):
    with write_lock(tmp_path / "run"):
        assert json.loads((tmp_path / ".run.lock").read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()}"), write_lock(tmp_path / "run"):
            raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_full_disk_cannot_take_is_not_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="No space left on the disk"), write_lock(tmp_path / "run"):
            raise AssertionError
    assert list(tmp_path.iterdir()) == []
    with write_lock(tmp_path / "run"):
        pass


def test_who_only_reads_can_ask_whether_it_is_being_written(tmp_path, hold):
    target = tmp_path / "scores.csv"
    assert not is_being_written(target)
    process = hold(target)
    assert is_being_written(target)
    process.kill()
    process.wait()
    assert (tmp_path / ".scores.csv.lock").exists() and not is_being_written(target)
    with write_lock(target):  # having asked is in nobody's way
        assert is_being_written(target)


@pytest.mark.parametrize("more", [(), ("fork",), ("fork", "slow")])
def test_what_a_killed_writer_left_is_taken_over_and_removed(tmp_path, hold, more):
    target = tmp_path / "scores.csv"
    process = hold(target, *more)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with write_lock(target):
        write_text(target, "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_a_living_writer_keeps_its_temporary_folder(tmp_path, hold):
    hold(tmp_path / "a")
    write_text(tmp_path / "a", "other")
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".tmp"]) == 1


@pytest.mark.parametrize(
    ("changes", "free"),
    [({}, True), ({"boot": "before"}, True), ({"host": "renamed"}, True), ({"host": "far", "boot": "its own"}, False)],
)
def test_a_stale_lock_of_this_machine_is_taken_over_and_no_other(tmp_path, changes, free):
    with write_lock(tmp_path / "run"):
        owner = json.loads((tmp_path / ".run.lock").read_text())
    (tmp_path / ".run.lock").write_text(json.dumps({**owner, **changes}))
    if free:
        with write_lock(tmp_path / "run"):
            pass
        return
    refused = pytest.raises(UserError, match=r"^\S+ is locked by process \d+ on far .*, delete \S+/\.run\.lock\.$")
    with refused, write_lock(tmp_path / "run"):
        raise AssertionError
    (tmp_path / ".run.lock").unlink()
    with write_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_lock_that_nobody_holds_is_free(tmp_path, content):
    (tmp_path / ".run.lock").write_bytes(content)
    with write_lock(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / ".run.lock").read_text()


def test_a_disk_without_locks_goes_by_the_process(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with write_lock(tmp_path / "run"):
        with pytest.raises(UserError, match="being written"), write_lock(tmp_path / "run"):
            raise AssertionError
        write_text(tmp_path / "file", "text")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / ".run.lock").write_text(json.dumps({"pid": child.pid, "host": os.uname().nodename}))
    with write_lock(tmp_path / "run"):
        pass


def test_many_processes_take_turns(tmp_path):
    """Each adds one to a number in a file, again and again: under the lock none is lost."""
    script = """
import sys, time
from pathlib import Path
from ood_nc.errors import UserError
from ood_nc.files import write_lock
target, done = Path(sys.argv[1]), 0
while done < 25:
    try:
        with write_lock(target):
            target.write_text(str(int(target.read_text()) + 1))
        done += 1
    except UserError:
        time.sleep(0.001)
"""
    target = tmp_path / "number"
    target.write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", script, str(target)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert target.read_text() == "75"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "file", "before")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "before")]
