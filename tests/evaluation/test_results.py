from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ood_nc.documents import COLUMNS, write_results
from ood_nc.errors import UserError
from ood_nc.evaluation import save_comparison
from ood_nc.evaluation.results import Results, make_row, reason_of
from ood_nc.features import BankStore
from ood_nc.files import write_lock
from ood_nc.report import write_report
from tests.helpers.report_runs import build_run
from tests.helpers.rows import collapse_row, detection_row

CONTRACT = [
    "run",
    "seed",
    "protocol",
    "tap",
    "depth",
    "kind",
    "dataset",
    "group",
    "method",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "selected_on",
    "reason",
]


def results() -> Results:
    rows = [
        collapse_row("encoder", 2.175, n=100),
        detection_row("encoder", "textures", 0.25, low=0.2, high=0.3, n=50, selected_on="held out of train"),
        detection_row("encoder", "empty", None, reason="the set holds no readable image"),
    ]
    return Results(
        rows=rows,
        identity={"run": "a", "seconds": {"total": np.float64(1.5)}},
        relations=[{"x": "nc1_pinv", "pearson": float("nan")}],
        choices=[{"task": "detection"}],
        series={"histograms": [{"edges": np.arange(3.0), "counts": [1, 2]}]},
        scores=pa.table({"group": ["id"], "dataset": ["id_test"], "id": ["a.png"], "score/encoder/energy": [0.5]}),
    )


def test_the_columns_are_those_of_the_contract() -> None:
    assert list(COLUMNS) == CONTRACT
    assert list(results().rows[0]) == CONTRACT
    assert results().table.column_names == CONTRACT


def test_save_and_load_give_the_same_back(tmp_path: Path) -> None:
    first = results()
    first.save(tmp_path / "run")
    again = Results.load(tmp_path / "run")
    assert again.rows == first.rows and again.choices == first.choices
    assert again.identity == {"run": "a", "seconds": {"total": 1.5}}
    assert again.relations == [{"x": "nc1_pinv", "pearson": None}]
    assert again.series["histograms"][0]["edges"] == [0.0, 1.0, 2.0]
    assert again.scores.equals(first.scores)
    assert pq.read_table(tmp_path / "run" / "results.parquet").to_pylist() == first.rows
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "results.json",
        "results.parquet",
        "scores.parquet",
    ]


def test_the_document_is_strict_json_with_its_schema(tmp_path: Path) -> None:
    results().save(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert document["schema"] == 1
    assert set(document) == {"schema", "identity", "rows", "relations", "choices", "series", "scores", "digest"}


def test_a_notebook_may_name_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results went into a folder called ~ where the notebook ran, and those at home were not found."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    results().save("~/run")
    assert Results.load("~/run").rows == Results.load(tmp_path / "run").rows
    save_comparison({"differences": []}, "~/comparison.json")
    assert (tmp_path / "comparison.json").exists() and BankStore("~/bank").directory == tmp_path / "bank"
    build_run(tmp_path / "trial", epochs=1)
    assert write_report("~/trial") == tmp_path / "trial" / "report.html"
    assert not list((tmp_path / "here").iterdir())


def test_a_save_that_fails_leaves_the_old_document_whole(tmp_path: Path) -> None:
    results().save(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    broken = results()
    broken.identity["object"] = object()
    with pytest.raises(TypeError):
        broken.save(tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3, "no temporary file stays"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No results.json in"),
        ("{", "Cannot read"),
        ("[]", "does not name its schema"),
        ('{"schema": 1}', "Cannot read"),
        ('{"schema": 2, "identity": {}, "rows": [], "relations": [], "choices": [], "series": {}}', "has schema 2"),
        (
            '{"schema": 1, "identity": {}, "rows": [], "relations": [], "choices": [], "series": {}}',
            "not what was written",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        Results.load(tmp_path)
    assert "\n" not in str(caught.value) and re.search("again|first|newer", str(caught.value))


@pytest.mark.parametrize("name", ["results.json", "scores.parquet"])
def test_no_changed_byte_is_accepted(tmp_path: Path, name: str) -> None:
    first = results()
    first.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.choice(len(whole), min(60, len(whole)), replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= int(generator.integers(1, 256))
        (tmp_path / name).write_bytes(damaged)
        try:
            again = Results.load(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert (again.rows, again.choices, again.scores) == (first.rows, first.choices, first.scores)


def test_damaged_scores_are_one_line(tmp_path: Path) -> None:
    results().save(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"scores\.parquet"):
        Results.load(tmp_path)


def test_what_is_being_saved_anew_is_read_before_or_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results().save(tmp_path)
    second = results()
    second.scores = pa.table({"group": ["id"], "dataset": ["id_test"], "id": ["b.png"], "score/encoder/energy": [0.7]})
    halfway, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> None:
        write_results(*arguments)
        halfway.set()
        assert go_on.wait(10)

    def save() -> None:
        with write_lock(tmp_path / "results.json"):
            second.save(tmp_path)

    monkeypatch.setattr("ood_nc.evaluation.results.write_results", slowly)
    writer = threading.Thread(target=save)
    writer.start()
    assert halfway.wait(10)  # the old scores lie beside the new document
    threading.Timer(0.2, go_on.set).start()
    assert Results.load(tmp_path).scores == second.scores
    writer.join()


def test_a_full_disk_leaves_all_of_the_earlier_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = results()
    second.scores = pa.table({"group": ["id"], "dataset": ["id_test"], "id": ["b.png"], "score/encoder/energy": [0.7]})

    def full(*_: Any) -> None:
        raise UserError("No space left on the disk")

    monkeypatch.setattr("ood_nc.evaluation.results.write_results", full)
    with pytest.raises(UserError, match="No space left"):
        second.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damage_is_told_while_an_evaluation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ood_nc.evaluation.results.PATIENCE", 0.1)
    results().save(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 nothing")
    with write_lock(tmp_path / "results.json"), pytest.raises(UserError, match=r"scores\.parquet"):
        Results.load(tmp_path)


def test_without_scores_there_is_no_file(tmp_path: Path) -> None:
    one = results()
    one.scores = None
    one.save(tmp_path)
    assert Results.load(tmp_path).scores is None


def test_saving_without_scores_removes_those_of_another_evaluation(tmp_path: Path) -> None:
    results().save(tmp_path)
    one = results()
    one.scores = None
    one.save(tmp_path)
    assert Results.load(tmp_path).scores is None


def test_select() -> None:
    found = results().select(kind="detection", dataset="textures")
    assert [row["value"] for row in found] == [0.25]
    assert results().select(value=None)[0]["dataset"] == "empty"
    with pytest.raises(UserError, match="'metrics'"):
        results().select(metrics="auroc")


def test_an_undefined_value_needs_a_reason() -> None:
    base = dict.fromkeys(COLUMNS)
    with pytest.raises(ValueError, match="auroc needs a reason"):
        make_row(base, metric="auroc", value=None)
    with pytest.raises(KeyError, match="values"):
        make_row(base, values=1)
    assert make_row(base, value=math.nan, metric="auroc")["reason"] == "it is nan"
    infinite = make_row(base, value=np.float32("inf"), high=math.inf, metric="auroc")
    assert infinite["value"] is None and infinite["high"] is None and "inf" in infinite["reason"]
    assert make_row(base, value=0.0, metric="auroc", reason="unused")["reason"] is None


def test_reasons_are_one_line_and_name_the_type_of_unexpected_errors() -> None:
    assert reason_of(UserError("no\nlabels")) == "no labels"
    assert reason_of(RuntimeError("boom")) == "RuntimeError: boom"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert len(reason_of(UserError("x" * 1000))) == 300
