from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ood_nc.cli import main
from ood_nc.evaluation import Results
from ood_nc.evaluation.scores_table import scores_table
from tests.helpers.rows import accuracy_row, collapse_row, detection_row


def save(directory: Path, gap: float) -> str:
    generator = np.random.default_rng(0)
    sets = [("id", "id_test", 60, gap), ("far", "svhn", 40, 0.0)]
    table = scores_table(
        [
            (group, name, tuple(map(str, range(n))), {"score/encoder/knn": generator.normal(size=n) + shift})
            for group, name, n, shift in sets
        ]
    )
    identity = {"run": directory.name, "seed": 0, "taps": [{"name": "encoder", "depth": 0}], "head_tap": "encoder"}
    rows = [
        collapse_row("encoder", 1.0),
        detection_row("encoder", "svhn", 0.5, method="knn"),
        accuracy_row("encoder", 0.9),
    ]
    Results(rows, identity | {"detectors": ["knn"], "probes": []}, scores=table).save(directory)
    return str(directory)


def test_two_runs_are_compared_on_the_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [save(tmp_path / "a", 0.5), save(tmp_path / "b", 3.0)]
    assert main(["compare", *runs, "--format", "csv", "markdown", "latex", "openood"]) == 0
    names = (
        "comparison.csv",
        "comparison.md",
        "comparison.tex",
        "comparison-a-openood.csv",
        "comparison-b-openood.csv",
    )
    assert all((tmp_path / name).stat().st_size for name in names)
    said = capsys.readouterr().out
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert comparison["verdict"] in said and "(better) by knn" in said
    assert (tmp_path / "comparison.html").exists()


def test_each_run_has_its_own_openood_csv_whatever_its_folder_is_called(tmp_path: Path) -> None:
    runs = [save(tmp_path / of / "final", gap) for of, gap in (("a", 0.5), ("b", 3.0))]
    assert main(["compare", *runs, "--format", "openood"]) == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        "comparison-final-openood.csv", "comparison-final (2)-openood.csv"
    }  # fmt: skip


def test_one_run_or_none_evaluated_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", save(tmp_path / "a", 1.0)]) == 2
    assert "two run directories" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "none")]) == 2
    assert "No results.json" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "kind"), [("table.md", "markdown"), ("comparison.json", "csv"), ("", "csv")])
def test_the_report_takes_no_other_files_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """The table or the page took each other's place, and the command said that the report was there."""
    runs = [save(tmp_path / "runs" / "a", 0.5), save(tmp_path / "runs" / "b", 3.0)]
    assert main(["compare", *runs, "-o", str(tmp_path / name), "--format", kind]) == 2
    error = capsys.readouterr().err
    assert f"give -o {(tmp_path / name).with_suffix('.html') if name else tmp_path / 'comparison.html'}" in error
    assert len(error.splitlines()) == 1 and [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_report_and_the_comparison(evaluated_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated_runs / "controlled" / "report.html"
    report.unlink()
    assert main(["report", str(evaluated_runs / "controlled")]) == 0
    assert report.stat().st_size > 1e6
    pair = [str(evaluated_runs / name) for name in ("baseline", "controlled")]
    assert main(["compare", *pair, "-o", str(evaluated_runs / "both.html")]) == 0
    said = capsys.readouterr().out
    assert "controlled" in said
    assert "baseline" in said
    assert (evaluated_runs / "both.html").exists()
    verdict = json.loads((evaluated_runs / "comparison.json").read_text())["verdict"]
    assert verdict in said
