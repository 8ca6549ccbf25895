"""A short run of the attack on data files; `scripts/attacks/data_files.py` has the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "attacks" / "data_files.py"


@pytest.mark.slow
def test_damaged_files_end_in_one_line():
    run = subprocess.run([sys.executable, SCRIPT, "--mutations", "40"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
