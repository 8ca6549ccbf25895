"""A disk that is full: every command that writes ends in one line, and leaves what was there before.

    python scripts/attacks/full_disk.py [--commands train evaluate fit score export onnx]    (Linux, as root)

Each command works on a disk of its own (tmpfs) with room for a part of what it writes. It must exit with 2 and one line
that says so, and leave no temporary file, lock or part of a file; what was there must be as it was, or be read as it
was. With room again the same command (train and score: going on) must end as if nothing had happened.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from children import commands, kept, left_over, prepare, start

COMMANDS = ("train", "evaluate", "fit", "score", "export", "onnx")
SHARES = (0.0, 0.4, 0.9)
ROOM = 64 << 20


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at ``place`` while the block runs."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def used(folder: Path, since: float = 0.0) -> int:
    """Bytes of the pages that the files of a folder take, or those of them that were written since."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(-(-stat.st_size // 4096) * 4096 for stat in stats if stat.st_mtime >= since)


def words(folder: Path, name: str) -> list[str]:
    """The command; `score` and `fit` over an earlier output."""
    known = commands(folder)
    known["onnx"] = [*known["export"][:-1], str(folder / "one.onnx")]
    return [*known[name], *(["--overwrite"] if name == "score" else [])]


def fill(name: str, prepared: Path, place: Path, growth: int, share: float, alone: dict[str, object]) -> str:
    """What went wrong, or nothing."""
    said, folder = place.with_name("said"), place / "work"
    with small_disk(place, used(prepared) + int(share * growth) + 4096):
        shutil.copytree(prepared, folder)
        before = kept(folder)
        code, text = start(words(folder, name), said).wait()
        if code != 2 or "\n" in text or not re.search("No space left on the disk|: free some", text):
            return f"exit code {code}: {text[-300:]!r}"
        # What is finished of the images is kept, for the same command to go on with.
        after, hidden = kept(folder), [name for name in left_over(folder) if not name.endswith((".parts", ".part"))]
        if hidden:
            return f"left over: {hidden}"
        changed = [part for part in before if before[part] != after.get(part)]
        if changed and name != "train":
            return f"what was there is not as it was: {changed}"
        subprocess.run(["mount", "-o", f"remount,size={used(folder) + growth + ROOM}", place], check=True)
        resume = ["--resume"] if name == "train" and (folder / "run").exists() else []
        code, text = start([*words(folder, name), *resume], said).wait()
        if code:
            return f"with room again it ends with {code}: {text[-300:]!r}"
        return "" if kept(folder) == alone else "with room again it leaves something else"


def attack(name: str, root: Path) -> int:
    """How many of the sizes of a disk a command did not survive."""
    prepared, straight, said, failures = root / name, root / "disk" / "work", root / "said", 0
    prepare(prepared, "export" if name == "onnx" else name, said)
    if name in ("fit", "score", "evaluate"):  # over what another has left
        start(words(prepared, name), said).wait()
        shutil.rmtree(prepared / "run/features", ignore_errors=True)
    shutil.copytree(prepared, straight)  # with the times of the files
    begin = time.time()
    code, text = start(words(straight, name), said).wait()
    if code:
        raise SystemExit(f"{name} fails alone: {text}")
    alone, growth = kept(straight), used(straight, begin)
    shutil.rmtree(root / "disk")
    for share in SHARES:
        fault = fill(name, prepared, root / "disk", growth, share, alone)
        failures += bool(fault)
        print(f"{name}, room for {share:.0%} of {growth / 1e6:.2f} MB: {fault or 'as it should be'}", flush=True)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return int(sum(attack(name, Path(folder)) for name in given.commands) > 0)


if __name__ == "__main__":
    sys.exit(main())
