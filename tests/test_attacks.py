"""Short runs of the attacks on commands and files; `scripts/attacks` has the long ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = Path(__file__).parent.parent / "scripts" / "attacks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["races.py", "--races", "1"],
        ["meetings.py", "--races", "1"],
        ["kills.py", "--kills", "3"],
        ["damage.py", "--mutations", "200"],
        ["mutations.py", "--mutations", "60"],
        ["banks.py", "--kills", "3", "--images", "100"],
    ],
    ids=lambda words: words[0],
)
def test_attack(words: list[str]) -> None:
    command = [sys.executable, str(ATTACKS / words[0]), *words[1:]]
    # Each forks its commands: a process without other threads.
    ended = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
