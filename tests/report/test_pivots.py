from __future__ import annotations

import json
from pathlib import Path

from ood_nc.report.documents import read_runs
from ood_nc.report.payload import Index
from ood_nc.report.pivots import detector_table, id_size, span
from ood_nc.report.tables import Lookup
from tests.helpers.report_runs import build_comparison, write_document


def test_sizes_in_which_runs_differ_are_told_from_the_fewest_to_the_most(tmp_path: Path) -> None:
    """The head of a column had the largest set's size and base rate for all runs."""
    paths, _ = build_comparison(tmp_path)
    document = json.loads((paths[1] / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if row["dataset"] == "other-digits" and row["n"] is not None:
            row["n"] = 40
    document["identity"]["datasets"]["id_test"]["n"] = 100
    write_document(paths[1], document)
    runs = read_runs(paths)
    table = detector_table(runs, Lookup(runs, Index(runs)))
    assert table is not None
    details = {column["name"]: column["detail"] for column in table["columns"] if column["kind"] == "detection"}
    assert details["other-digits"] == "n = 40 to 240"
    assert span(map(id_size, runs)) == "100 to 360" and span([None]) == "" and span([3, None, 3]) == "3"


def test_the_head_of_means_says_over_how_many_sets_and_each_cell_too(tmp_path: Path) -> None:
    paths, _ = build_comparison(tmp_path)
    document = json.loads((paths[1] / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if (row["dataset"], row["group"], row["method"]) == ("mean", "ood", "knn"):
            row["n"] = 1
    write_document(paths[1], document)
    runs = read_runs(paths)
    table = detector_table(runs, Lookup(runs, Index(runs)))
    assert table is not None
    assert next(column["detail"] for column in table["columns"] if column["mean"]) == "over 1 to 2 sets"
    told = {(row["name"], row["run"]): row["cells"][0]["title"] for row in table["rows"]}
    assert told["knn", 1] == "mean of 1 set" and told["knn", 0] == "mean of 2 sets"
