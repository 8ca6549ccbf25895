from __future__ import annotations

from pathlib import Path

import pytest

from ood_nc.cli import main
from tests.helpers.report_runs import build_run


def test_the_report_is_written_into_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert (run / "report.html").stat().st_size > 1e6


def test_a_run_without_or_with_damaged_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "evaluate the run first" in capsys.readouterr().err
    run = build_run(tmp_path / "run", epochs=1)
    text = (run / "results.json").read_text()
    (run / "results.json").write_text(text.replace('"strict"', '"static"', 1))
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert "not what was written" in error and len(error.splitlines()) == 1
