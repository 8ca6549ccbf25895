from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from ood_nc.cli.processes import work
from ood_nc.errors import UserError


def test_every_command_runs_and_those_that_fail_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('done'); sys.exit(int(sys.argv[2]))"
    codes = {"a": "0", "b": "3"}
    pending = {name: [sys.executable, "-c", write, str(tmp_path / name), code] for name, code in codes.items()}
    with pytest.raises(UserError, match=r"1 of 3 runs failed \(b\)\. The rest is there\."):
        work(pending, jobs=1, of=3, kept="The rest is there.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert capsys.readouterr().out.split() == ["a", "b"]


def test_no_more_than_so_many_at_a_time_and_each_has_its_share_of_the_cores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    log = tmp_path / "log"
    note = (
        "import os, sys, time; f = open(sys.argv[1], 'a', buffering=1)\n"
        "f.write('+'); time.sleep(0.3); f.write('-' + os.environ['OMP_NUM_THREADS'])"
    )
    started = time.monotonic()
    work({str(k): [sys.executable, "-c", note, str(log)] for k in range(4)}, jobs=2, of=4, kept="")
    assert time.monotonic() - started > 0.6
    said = log.read_text()
    running = [said[: k + 1].count("+") - said[: k + 1].count("-") for k in range(len(said))]
    assert max(running) <= 2 and said.count("3") == 4
