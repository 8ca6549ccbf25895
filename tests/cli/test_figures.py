from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.cli import main
from tests.helpers.report_runs import build_run, write_document


@pytest.mark.slow
def test_figures_of_a_run_lie_in_it_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs the figures extra")
    run = build_run(tmp_path / "run", epochs=2)
    assert main(["figures", str(run)]) == 0
    said = capsys.readouterr().out
    assert "no figure of the features in a plane" in said and f"18 files in {run / 'figures'}" in said
    assert len(list((run / "figures").iterdir())) == 18


def test_a_run_that_was_not_evaluated_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", str(tmp_path)]) == 2
    assert "evaluate the run first" in capsys.readouterr().err


def test_a_protocol_that_was_not_measured_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    assert main(["figures", str(run), "--protocol", "paper"]) == 2
    said = capsys.readouterr().err
    assert f"has nothing of the protocol paper: ood-nc evaluate {run} --protocols strict paper" in said
    assert len(said.splitlines()) == 1


def test_the_command_that_is_told_keeps_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        row["protocol"] = "paper"
    write_document(run, document)
    assert main(["figures", str(run)]) == 2
    assert f"ood-nc evaluate {run} --protocols strict paper" in capsys.readouterr().err
