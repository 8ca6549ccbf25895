"""Files that are either whole or not there, and one writer at a time.

Locks are the kernel's (``flock``): they end with the process that holds them, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ood_nc.errors import UserError

PATIENCE = 5.0  # seconds for the lock of an owner that has died, or for a writer of several files to come to its last
_held: list[int] = []


def _let_go() -> None:
    """Close every lock: a process forked to load images must not keep those of an owner that has died."""
    while _held:  # the last first: whoever gets the lock of a target may remove the temporary files of its owner
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside ``target``; on success that file takes the target's place in one step.

    The folder is the writer's own, as some libraries (safetensors) write beside the path they are given and rename.
    What a killed writer of the same target left is removed.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        descriptor, folder = _temporary_folder(target)
    except OSError as error:
        raise _as_user_error(error, target) from error
    temporary = folder / target.name
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _as_user_error(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(descriptor)


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` to ``target`` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def write_lock(target: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only writer of ``target``, a file or a folder, while the block runs.

    The lock is the file ``.NAME.lock`` beside it; it says who holds it, and is gone afterwards. One that a killed
    process of this machine left is taken over, also after a restart. Whether the process of another machine lives
    nobody here can tell (not every shared disk carries locks), so what that left is the user's to remove.

    Args:
        target: what is written.
        wait: for another process of this machine, as long as it takes.

    Raises:
        UserError: another process writes it, or the folder cannot be written.
    """
    target = Path(target)
    path = _lock_of(target)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, target, wait)
    except OSError as error:
        raise _as_user_error(error, target) from error
    try:
        yield
    finally:
        if _is_file(path, descriptor):
            path.unlink()
        _close(descriptor)
        with suppress(OSError):  # it holds something by now
            for folder in made:
                folder.rmdir()


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Turn the system's refusal to write ``target`` into one line.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _as_user_error(error, Path(target)) from error


def is_being_written(target: str | Path) -> bool:
    """Whether a process of this machine holds the lock of ``target`` now."""
    try:
        descriptor = os.open(_lock_of(Path(target)), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _acquire(path: Path, target: Path, wait: bool) -> int:
    deadline = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        free = _lock(descriptor)
        owner = _owner(descriptor)
        if not free or _elsewhere(owner):
            os.close(descriptor)
            if _elsewhere(owner) or (not wait and (_is_alive(owner.get("pid")) or time.monotonic() > deadline)):
                raise UserError(_refusal(owner, path, target))
            time.sleep(0.02)  # until its owner has done, or a process that a dead one forked has let go
            continue
        _held.append(descriptor)
        if _is_file(path, descriptor):  # else its holder removed it between our two calls
            break
        _close(descriptor)
    us = {"pid": os.getpid(), **_machine(), "since": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({**us, "command": " ".join(sys.argv)[:200]}).encode(), 0)
    except OSError:  # the disk is full
        path.unlink()
        _close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks: what the file says must do
        return not _is_alive(_owner(descriptor).get("pid"))
    return True


def _is_alive(pid: int | None) -> bool:
    if not pid:
        return False
    try:
        with suppress(PermissionError):  # another user's
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _owner(descriptor: int) -> dict[str, Any]:
    """What the lock says about who holds it; nothing where that is still being written."""
    with suppress(ValueError):
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return owner if isinstance(owner, dict) else {}
    return {}


def _machine() -> dict[str, str]:
    """This machine by name, and by its start: containers that share a kernel share its locks under other names."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {"host": socket.gethostname(), "boot": boot.read_text().strip() if boot.exists() else ""}


def _elsewhere(owner: dict[str, Any]) -> bool:
    return bool(owner) and not any(owner.get(key) == value for key, value in _machine().items() if value)


def _refusal(owner: dict[str, Any], path: Path, target: Path) -> str:
    who = (
        f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
        if owner
        else "another process"
    )
    if _elsewhere(owner):
        return f"{target} is locked by {who}, which cannot be asked from here: if it has ended, delete {path}."
    return f"{target} is being written by {who}: wait until that has ended, or choose another place for this."


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether ``path`` still names the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _close(descriptor: int) -> None:
    if descriptor in _held:  # not in a forked child, which has let go of it
        _held.remove(descriptor)
        os.close(descriptor)


def _temporary_folder(target: Path) -> tuple[int, Path]:
    """A new folder beside ``target``, locked so that nobody takes it for a leftover."""
    while True:
        name = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except FileNotFoundError:  # taken for one before it was locked
            continue
        with suppress(OSError):  # on a disk without locks there is nobody to be wary of
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _held.append(descriptor)
        if _is_file(Path(name), descriptor):
            return descriptor, Path(name)
        _close(descriptor)


def _remove_leftovers(target: Path) -> None:
    prefix = f".{target.name}."
    for path in [path for path in target.parent.iterdir() if path.name.startswith(prefix) and path.suffix == ".tmp"]:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A user's path with ``~`` and ``~name`` replaced; UserError where nobody has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: nobody of that name has a home directory here. Write the path out.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_user_error(error: OSError, target: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"No space left on the disk while writing {target}: free some, then run the command again.")
    return UserError(f"Cannot write {target}: {error.strerror or error}. Choose another place for it.")
