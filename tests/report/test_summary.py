from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report import write_comparison, write_report
from ood_nc.report.differences import difference_table, finding
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.glossary import metric
from ood_nc.report.summary import datasets, facts, run_time, undefined, warnings
from tests.helpers.report_pages import read_data, read_page
from tests.helpers.report_runs import build_comparison, build_run, write_document


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Run:
    run = build_run(folder / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    edit(document)
    write_document(run, document)
    return read_runs([run])[0]


def test_run_time_with_and_without_training(tmp_path: Path) -> None:
    spent = {"train": 150.0, "features": 2.0, "detection": 3.0}
    assert (
        run_time(edited(tmp_path, lambda d: d["identity"].update(seconds=spent)))
        == "trained in 2.5 min, evaluated in 5.0 s"
    )
    assert run_time(edited(tmp_path, lambda d: d["identity"].update(seconds={}))) == ""


def test_facts_are_shared_or_stand_beside_their_run(tmp_path: Path) -> None:
    runs, comparison = build_comparison(tmp_path)
    found = facts(read_runs(runs))
    shared, differing = ({line["name"]: line["cells"] for line in found[part]} for part in ("shared", "differing"))
    assert not shared.keys() & differing.keys()
    assert len(set(differing["Head reads"])) == 2
    assert shared["Evaluated"][0] == "2025-11-25 13:05 UTC"
    assert shared["Classes"][0] == "4: zero, one, two, three"
    page = read_page(write_comparison(runs, tmp_path / "c.html", comparison))
    table = next(table for table in page.all("table") if table["class"] == "facts by-run")
    head, *rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
    assert head == ["Run", *differing]
    assert rows == [[run.name, *(cells[n] for cells in differing.values())] for n, run in enumerate(read_runs(runs))]


def test_lists_that_differ_behind_their_first_names_are_not_shared(tmp_path: Path) -> None:
    runs, same = [], [f"detector{number}" for number in range(14)]
    for name, last in (("a", "vim"), ("b", "gen")):
        path = build_run(tmp_path / name, name, epochs=1)
        document = json.loads((path / "results.json").read_text(encoding="utf-8"))
        document["identity"] |= {"detectors": [*same, last], "probes": same}
        write_document(path, document)
        runs.append(path)
    shared, differing = ({line["name"]: line["cells"] for line in facts(read_runs(runs))[part]}
                         for part in ("shared", "differing"))  # fmt: skip
    assert [cell.rpartition(", ")[2] for cell in differing["Detectors"]] == ["vim", "gen"]
    assert shared["Probes"][0].endswith("(14 in all)")


def test_facts_of_plain_values(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda d: d["identity"].update(classes=["a", "b"], created="yesterday", class_names=None))
    lines = {line["name"]: line["cells"][0] for line in facts([run])["shared"]}
    assert lines["Classes"] == "a, b"
    assert lines["Evaluated"] == "yesterday"
    run = edited(tmp_path, lambda d: d["identity"].update(classes=300, class_names=[str(i) for i in range(300)]))
    assert {line["name"]: line["cells"][0] for line in facts([run])["shared"]}["Classes"].endswith("11, … (300 in all)")


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        ({"n": 100, "duplicates": 20}, "20 of 100 files are also in the ID data"),
        ({"n": 100, "duplicates": ["a", "b"]}, "2 of 100 files are also in the ID data"),
        ({"n": 100, "duplicates": {"id_train": {"count": 3, "ids": []}}}, "3 of 100 files are also in ID train"),
        (
            {"n": 9, "broken": [["a.png", "cut off"]]},
            "files that could not be read and are left out: 1 (first: a.png: cut off)",
        ),
        ({"n": 9, "broken": 4}, "files that could not be read and are left out: 4"),
        ({"n": 9, "shared_classes": ["cat", "dog"]}, "class names shared with ID: cat, dog"),
    ],
)
def test_data_notes(tmp_path: Path, entry: dict[str, Any], note: str) -> None:
    (line,) = datasets([edited(tmp_path, lambda document: document["identity"].update(datasets={"set": entry}))])
    assert line["notes"] == [note]


def test_undefined_rows_are_counted_by_reason(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda document: None)
    told = undefined([run])
    assert sum(entry["count"] for entry in told) == sum(row["value"] is None for row in run.rows)
    assert len({(entry["kind"], entry["reason"]) for entry in told}) == len(told)


def test_other_protocols_are_a_warning(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda d: d["rows"].append({**d["rows"][0], "protocol": "paper"}))
    assert any("protocol paper" in note for note in warnings([run], None))


def test_a_warning_is_said_once_after_the_runs_that_carry_it(tmp_path: Path) -> None:
    def noting(name: str, *notes: str) -> Run:
        return edited(tmp_path / name, lambda d: d["identity"].update(run=name, notes=list(notes), warnings=[]))

    runs = [noting("a", "of all"), noting("b", "of all", "of two"), noting("c", "of all", "of two")]
    assert warnings(runs, {"notes": ["of the pair"]}) == ["of the pair", "of all", "b, c: of two"]


@pytest.mark.parametrize(
    ("name", "low", "high", "told"),
    [
        ("auroc", 0.01, 0.2, "better"),
        ("auroc", -0.2, -0.01, "worse"),
        ("fpr95_id_positive", -0.2, -0.01, "better"),
        ("transfer_error", 0.01, 0.2, "worse"),
        ("accuracy", -0.1, 0.1, "no difference shown"),
        ("accuracy", None, None, "no interval"),
    ],
)
def test_finding(name: str, low: float | None, high: float | None, told: str) -> None:
    middle = 0.1 if low is None or high is None else (low + high) / 2
    assert finding({"metric": name, "difference": middle, "low": low, "high": high}) == told


def test_differences_without_intervals_and_without_entries() -> None:
    assert difference_table({"differences": []}) is None
    entry = {"kind": "detection", "tap": "t", "dataset": "d", "group": "far", "method": "m", "metric": "auroc"}
    entry |= {"a": "x", "b": "y", "difference": 0.1, "low": None, "high": None, "n": 5, "headline": False}
    table = difference_table({"differences": [entry]})
    assert table is not None
    assert table["places"] == ["y − x: detection, t, m"]
    (row,) = table["rows"]
    assert (row["text"], row["interval"], row["bar"]["low"]) == ("+10.0", "", None)
    assert row["bar"]["value"] == 96


def test_unknown_metrics_go_by_their_name() -> None:
    assert (metric("nc9_new").label, metric("nc9_new").unit) == ("nc9_new", "number")
    assert metric("fpr80_id_positive").unit == "percent"


def test_seeds_share_a_colour_and_verdicts_stand_one_by_one(tmp_path: Path) -> None:
    names = ("baseline-seed0", "baseline-seed1", "controlled-seed0", "controlled-seed1")
    runs = [build_run(tmp_path / name, name, epochs=1, strength=float("controlled" in name)) for name in names]
    verdicts = ["controlled against baseline: one.", "other against baseline: two."]
    comparison = {"schema": 1, "verdict": " ".join(verdicts), "verdicts": verdicts, "differences": [], "relations": []}
    page = read_page(write_comparison(runs, tmp_path / "out.html", comparison))
    assert [run["color"] for run in read_data(page)["runs"]] == [0, 0, 1, 1]
    assert [paragraph.text for paragraph in page.by_id("verdict").all("p")] == verdicts
    assert page.by_id("table-relations")["data-set"] == "0"


def test_results_without_bootstrap(tmp_path: Path) -> None:
    edited(tmp_path, lambda document: [row.update(low=None, high=None) for row in document["rows"]])
    page = read_page(write_report(tmp_path / "run"))
    assert not [span for span in page.by_id("table-detectors").all("span") if span["class"] == "interval"]


def test_relations_over_runs_have_a_column_where_any_is_defined(tmp_path: Path) -> None:
    runs, comparison = build_comparison(tmp_path)
    heads = (
        read_page(write_comparison(runs, tmp_path / "out.html", comparison)).by_id("table-relations").all("thead")[0]
    )
    assert "Within depth" not in heads.text
    comparison["relations"][0]["pearson_within_depth"] = 0.25
    table = read_page(write_comparison(runs, tmp_path / "out.html", comparison)).by_id("table-relations")
    assert "Within depth" in table.all("thead")[0].text
    assert "Across runs" not in table.all("thead")[0].text


def test_aliases_are_named(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda document: document["identity"]["taps"][-2].update(aliases=["stages.4"]))
    (line,) = (line for line in facts([run])["shared"] if line["name"].startswith("Taps"))
    assert "encoder = stages.4 (" in line["cells"][0]


def test_a_set_without_images_has_no_fingerprint_and_is_listed(tmp_path: Path) -> None:
    """No report was written where an OOD set held no images."""
    run = edited(tmp_path / "a", lambda d: d["identity"]["datasets"].update(nothing={"n": 0, "group": "near"}))
    line = next(line for line in datasets([run]) if line["name"] == "nothing")
    assert (line["n"], line["fingerprint"]) == (0, None)
    write_report(run.directory)
