from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ood_nc.errors import UserError
from ood_nc.report import write_comparison, write_report
from ood_nc.report.documents import read_runs, settings
from ood_nc.report.headlines import columns
from tests.helpers.report_runs import build_run, write_document


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run", epochs=3)


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = run / "results.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    write_document(run, document)


def refuses(run: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        write_report(run)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*words, str(run)):
        assert word in message
    assert not (run / "report.html").exists()


def test_no_results(tmp_path: Path) -> None:
    refuses(tmp_path, "No results.json", "ood-nc evaluate")


def test_newer_schema(run: Path) -> None:
    change(run, lambda document: document.update(schema=2))
    refuses(run, "schema 2", "install a newer ood_nc")


def test_no_schema(run: Path) -> None:
    change(run, lambda document: document.pop("schema"))
    refuses(run, "does not name its schema")


def test_not_json(run: Path) -> None:
    (run / "results.json").write_text('{"schema": 1,\n "rows": [', encoding="utf-8")
    refuses(run, "line 2", "not JSON")


def test_not_text(run: Path) -> None:
    (run / "results.json").write_bytes(b"\xff\xfe\x00")
    refuses(run, "Cannot read")


@pytest.mark.parametrize("key", ["identity", "rows"])
def test_part_missing(run: Path, key: str) -> None:
    change(run, lambda document: document.pop(key))
    refuses(run, "Cannot read", key)


def test_no_taps(run: Path) -> None:
    change(run, lambda document: document["identity"].update(taps=[]))
    refuses(run, "no taps")


def test_column_missing(run: Path) -> None:
    change(run, lambda document: document["rows"][7].pop("n"))
    refuses(run, "row 7", "'n'")


def test_bare_fpr95_is_refused(run: Path) -> None:
    change(run, lambda document: document["rows"][3].update(metric="fpr95"))
    refuses(run, "row 3", "which side is positive")


def test_comparison_of_a_newer_schema(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The comparison has schema 9.*install a newer"):
        write_comparison([run, run], tmp_path / "out.html", {"schema": 9})
    with pytest.raises(UserError, match="does not name its schema"):
        write_comparison([run, run], tmp_path / "out.html", {})


def test_runs_of_one_name_are_numbered_and_seeds_form_a_group(tmp_path: Path) -> None:
    runs = [
        build_run(tmp_path / str(i), name, epochs=1) for i, name in enumerate(("a-seed0", "a-seed1", "b", "b", "b"))
    ]
    read = read_runs(runs)
    assert [run.name for run in read] == ["a-seed0", "a-seed1", "b", "b (2)", "b (3)"]
    # Runs that only share a name are no seeds of one configuration: the comparison document has them apart too.
    assert [run.group for run in read] == ["a", "a", "b", "b (2)", "b (3)"]
    assert columns(read) == [[0, 1], [2], [3], [4]]


def test_one_protocol_is_shown(run: Path) -> None:
    change(run, lambda document: document["rows"].extend({**row, "protocol": "paper"} for row in document["rows"][:5]))
    (read,) = read_runs([run])
    assert {row["protocol"] for row in read.rows} == {"strict"}
    assert list(read.other_protocols) == ["paper"]


def test_a_line_cut_off_while_written_is_left_out(run: Path) -> None:
    before = len(read_runs([run])[0].log)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 99, "lo')
    assert len(read_runs([run])[0].log) == before


def test_only_results_are_needed(run: Path) -> None:
    for name in ("metrics.jsonl", "config.yaml", "environment.json"):
        (run / name).unlink()
    (read,) = read_runs([run])
    assert read.config is None
    assert read.environment is None
    assert not read.log
    assert settings(read) == {}
    assert write_report(run).exists()


def test_settings_are_flat_and_broken_yaml_has_none(run: Path) -> None:
    assert settings(read_runs([run])[0])["model.projector.kind"] == "simplex_etf"
    (run / "config.yaml").write_text("a: [", encoding="utf-8")
    assert settings(read_runs([run])[0]) == {}
