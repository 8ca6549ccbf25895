from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report import write_report
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.headlines import columns, headlines, id_accuracy, sentences
from tests.helpers.report_pages import read_page
from tests.helpers.report_runs import build_comparison, build_run, write_document


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Run:
    run = build_run(folder / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    edit(document)
    write_document(run, document)
    return read_runs([run])[0]


def test_sentence_without_intervals_says_so(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda document: [row.update(low=None, high=None) for row in document["rows"]])
    assert all("(no interval)" in sentence for sentence in sentences(run)[:2])


def test_sentence_where_collapse_chooses_nothing(tmp_path: Path) -> None:
    reason = {"value_chosen": None, "regret": None, "chosen_tap": None, "reason": "collapse is undefined on every tap"}
    run = edited(tmp_path, lambda document: [choice.update(reason) for choice in document["choices"]])
    told = "cannot be compared (collapse is undefined on every tap)"
    assert all(told in text for text in sentences(run)[2:])


def test_the_headline_stays_whatever_is_best_in_hindsight(tmp_path: Path) -> None:
    """The verdict named the best of all taps and detectors on the test sets, the table under it another number."""
    run = read_runs([build_run(tmp_path / "run", epochs=1)])[0]

    def improve(document: dict[str, Any]) -> None:
        for choice in document["choices"]:
            choice.update(best_tap="stem", best_method="msp", value_best=0.0 if choice["task"] == "detection" else 1.0)

    better = edited(tmp_path, improve)
    assert sentences(better)[:2] == sentences(run)[:2]
    assert "stem with msp, mean 0.0 %" in sentences(better)[2] and "picked on the test sets" in sentences(better)[2]
    cells = [line["cells"][0]["value"] for line in headlines([better], None)]
    assert cells == [line["cells"][0]["value"] for line in headlines([run], None)]


def test_what_is_at_chance_is_never_praised(tmp_path: Path) -> None:
    def spoil(document: dict[str, Any]) -> None:
        for row in document["rows"]:
            if row["metric"] == "fpr95_id_positive" and row["value"] is not None:
                row["value"] = 1.0
        for choice in document["choices"]:
            if choice["task"] == "detection":
                choice.update(value_best=1.0, value_chosen=1.0, regret=0.0)

    told = sentences(edited(tmp_path, spoil))
    assert told[0].count("no better than chance") == 2
    assert "no tap with any detector tells these OOD sets from ID better than chance" in told[2]
    assert not any("best" in text.lower() and "100.0 %" in text for text in told)


def test_id_accuracy_of_a_head_made_for_other_classes_is_the_probes(tmp_path: Path) -> None:
    def forget(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            if row["kind"] == "accuracy" and row["method"] == "head":
                row["value"], row["reason"] = None, "other classes"

    row = id_accuracy(edited(tmp_path, forget))
    assert row is not None
    assert row["method"] != "head"
    assert row["value"] is not None


def test_id_accuracy_is_the_heads_else_the_last_probes(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda document: None)
    row = id_accuracy(run)
    assert row is not None and row["method"] == "head"
    run = edited(tmp_path, lambda d: d.update(rows=[row for row in d["rows"] if row["method"] != "head"]))
    row = id_accuracy(run)
    assert row is not None and (row["method"], row["tap"]) == ("linear", "projector")
    assert id_accuracy(edited(tmp_path, lambda document: document.update(rows=[]))) is None


def test_headline_difference_only_between_two_groups(tmp_path: Path) -> None:
    runs, comparison = build_comparison(tmp_path)
    assert headlines(read_runs(runs), comparison)[0]["difference"]["difference"] == -0.006
    more = [{**entry, "b": "third"} for entry in comparison["differences"]]
    assert (
        headlines(read_runs(runs), {**comparison, "differences": comparison["differences"] + more})[0]["difference"]
        is None
    )


def test_notes_stand_beside_the_numbers_they_are_about(tmp_path: Path) -> None:
    """Ties, copies in a bank and telling sizes were among the warnings at the foot of the page."""
    size = "textures: native sizes alone tell it from ID (AUROC 1.00)"
    ties = "projector, knn: 90 % of its scores tie"
    run = build_run(tmp_path / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    document["identity"]["notes"] = [size, ties, "stem, knn: another tap's", "something else"]
    write_document(run, document)
    page = read_page(write_report(run))
    assert [item.text for item in page.by_id("headline-notes").all("li")] == [size, ties]
    heads = [cell for cell in page.by_id("table-detectors").all("th") if cell["title"] == size]
    assert len(heads) == 1 and "†" in heads[0].text


def test_seeds_share_a_column_of_the_headline_and_each_is_seen(tmp_path: Path) -> None:
    def seeded(name: str, accuracy: float | None) -> Path:
        run = build_run(tmp_path / name, epochs=1)
        document = json.loads((run / "results.json").read_text(encoding="utf-8"))
        document["identity"]["run"] = name
        for row in document["rows"]:
            if row["kind"] == "accuracy" and row["group"] == "id":
                row |= {"value": accuracy, "reason": None if accuracy else "it was not measured"}
        write_document(run, document)
        return run

    other = seeded("other", 0.5)
    runs = read_runs([seeded("ours-seed0", 0.9), other, seeded("ours-seed1", 0.84)])
    assert columns(runs) == [[0, 2], [1]]
    ours, alone = headlines(runs, None)[0]["cells"]
    assert (ours["text"], ours["interval"], ours["detail"]) == ("87.0", "", "each seed 90.0, 84.0")
    assert (alone["text"], alone["detail"]) == ("50.0", "")
    lacking = read_runs([seeded("ours-seed0", 0.9), other, seeded("ours-seed1", None)])
    undefined = headlines(lacking, None)[0]["cells"][0]
    assert undefined["undefined"] and "it was not measured" in undefined["title"]


@pytest.mark.parametrize("change", ["fewer", "others"])
def test_means_of_seeds_over_other_sets_are_no_mean(tmp_path: Path, change: str) -> None:
    paths = [build_run(tmp_path / f"trial-seed{seed}", f"trial-seed{seed}", seed=seed, epochs=1) for seed in (0, 1)]
    document = json.loads((paths[1] / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if row["kind"] != "detection" or row["group"] not in ("ood", "far"):
            continue
        if change == "others" and row["dataset"] != "mean":
            row["dataset"] = f"another {row['dataset']}"
        elif change == "fewer" and row["group"] == "ood":
            row["n"] -= 1
    write_document(paths[1], document)
    cells = {line["name"]: line["cells"] for line in headlines(read_runs(paths), None)}
    (cell,), (transfer,) = cells["Mean AUROC, knn"], cells["Mean transfer error"]
    assert (cell["text"], cell["value"]) == ("–", "") and cell["detail"].endswith(", over other sets")
    assert transfer["value"] and "other sets" not in transfer["detail"]


def test_a_mean_over_fewer_sets_than_the_one_beside_it_is_told(tmp_path: Path) -> None:
    runs = read_runs(build_comparison(tmp_path)[0])
    lost = {"kind": "detection", "dataset": "textures", "method": "knn", "tap": runs[1].head_tap}
    rows = [{**row, "value": None} if lost.items() <= row.items() else row for row in runs[1].rows]
    runs[1] = replace(runs[1], rows=rows)
    lines = {line["name"]: [cell["detail"] for cell in line["cells"]] for line in headlines(runs, None)}
    assert [detail.partition("; ")[2] for detail in lines["Mean AUROC, knn"]] == ["", "without textures"]
    assert not any("without" in detail for detail in lines["Mean AUROC, energy"])
