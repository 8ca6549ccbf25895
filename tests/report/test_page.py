from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report import write_comparison, write_report
from ood_nc.report.glossary import metric
from tests.helpers.report_pages import Element, number, read_page
from tests.helpers.report_runs import build_comparison, build_run, write_document

from .conftest import Written, load

GROUPS = {"All OOD": "ood", "Near OOD": "near", "Far OOD": "far", "Transfer": "transfer", "In distribution": "id"}
HEADINGS = ("h1", "h2", "h3", "h4")


def spans(row: Element) -> list[str]:
    """The headers of a row of the head, each as often as it is wide; detail lines left out."""
    return [
        cell.own_text or cell.all("button")[0].text
        for cell in row.all("th")
        if not cell["rowspan"]
        for _ in range(int(cell["colspan"] or 1))
    ]


def head_tap(document: dict[str, Any]) -> str:
    return document["identity"]["head_tap"]


def check_cell(cell: Element, row: dict[str, Any] | None) -> None:
    """The cell shows the row: value to the last digit shown, interval, the exact number to sort by, or the reason."""
    if row is None or row["value"] is None:
        assert cell.text == "–"
        assert cell["data-v"] == ""
        assert cell["title"] == ("not measured" if row is None else f"undefined: {row['reason']}")
        return
    assert float(cell["data-v"]) == row["value"]
    scale = 100 if metric(row["metric"]).unit == "percent" else 1
    close = {"abs": 0.0501} if scale == 100 else {"rel": 0.05 if row["value"] > 999 or row["value"] < 1e-3 else 0.006}
    assert number(cell.own_text) == pytest.approx(scale * row["value"], **close)
    ends = cell.all("span")
    assert bool(ends) == (row["low"] is not None)
    if ends:
        shown = [number(end) for end in ends[0].text.strip("[]").split(", ")]
        assert shown == [pytest.approx(scale * row[end], abs=0.0501) for end in ("low", "high")]


@pytest.mark.parametrize(("table", "kind"), [("table-detectors", "detection"), ("table-probes", "transfer")])
@pytest.mark.parametrize("which", ["one", "two"])
def test_pivot_shows_the_documents_numbers(request: pytest.FixtureRequest, which: str, table: str, kind: str) -> None:
    written: Written = request.getfixturevalue(which)
    element = written.page.by_id(table)
    groups, sets, _ = (spans(row) for row in element.all("thead")[0].all("tr"))
    metrics = [leaf["data-metric"] for leaf in element.all("thead")[0].all("tr")[2].all("th")]
    assert len(groups) == len(sets) == len(metrics)
    shown = 0
    for line in element.all("tbody")[0].all("tr"):
        document = written.documents[int(line["data-run"])]
        found = {
            (row["kind"], row["dataset"], row["group"], row["metric"]): row
            for row in document["rows"]
            if row["method"] == line.all("th")[0].own_text and row["tap"] == head_tap(document)
        }
        for cell, group, name, metric_name in zip(line.all("td"), groups, sets, metrics, strict=True):
            if group == "Cost":
                row = found.get(
                    (
                        kind,
                        "id_test" if kind == "detection" else name,
                        "id" if kind == "detection" else "transfer",
                        metric_name,
                    )
                )
            else:
                place = "accuracy" if GROUPS[group] == "id" else kind
                row = found.get((place, "mean" if name == "mean of sets" else name, GROUPS[group], metric_name))
            check_cell(cell, row)
            shown += row is not None
    assert shown > 30 if kind == "detection" else shown > 10


def test_collapse_table_shows_the_documents_numbers(two: Written) -> None:
    element = two.page.by_id("table-collapse")
    names = [cell.text for cell in element.all("thead")[0].all("th")][1:]
    lines = element.all("tbody")[0].all("tr")
    assert len(lines) == sum(len(document["identity"]["taps"]) for document in two.documents)
    for line in lines:
        run = line.all("span")[0].text
        document = next(found for found in two.documents if found["identity"]["run"] == run)
        found = {}
        for row in document["rows"]:
            if row["kind"] == "collapse" and row["tap"] == line.all("th")[0].own_text and row["dataset"] != "id_test":
                shown = metric(row["metric"])
                label = shown.label + (f", {row['dataset']}" if row["group"] != "id" else "")
                found[label + (", %" if shown.unit == "percent" else "")] = row
        assert set(found) == set(names)
        for cell, name in zip(line.all("td"), names, strict=True):
            check_cell(cell, found[name])


def test_relation_table_shows_the_documents_numbers(one: Written) -> None:
    relations = {
        (row["kind"], row["y"], row["method"], row["normalized"], row["x"]): row
        for row in one.documents[0]["relations"]
    }
    for line in one.page.by_id("table-relations").all("tbody")[0].all("tr"):
        for cell in line.all("td"):
            kind, name, x = cell["data-k"].split(" ")
            error, method = ("fpr95_id_positive", "knn") if kind == "detection" else ("transfer_error", "linear")
            row = relations[kind, error, method, False, x]
            if name == "n":
                assert int(cell.text) == row["n"]
            elif row[name] is None:
                assert cell.text == "–"
                assert row["reason"] in cell["title"]
            else:
                assert number(cell.own_text) == pytest.approx(row[name], abs=0.00501)
                ends = [number(end) for end in cell.all("span")[0].text.strip("[]").split(", ")]
                assert ends == [pytest.approx(row[f"{name}_{end}"], abs=0.00501) for end in ("low", "high")]


def test_choices_show_the_documents_numbers(one: Written) -> None:
    lines = one.page.by_id("table-choices").all("tbody")[0].all("tr")
    for line, choice in zip(lines, one.documents[0]["choices"], strict=True):
        texts = [cell.text for cell in line.all("td")]
        assert line.all("th")[0].text == choice["rule"] + (" ✓" if choice["recommended"] else "")
        assert texts[1] == f"{choice['chosen_tap']}, {choice['method']}"
        assert texts[3] == f"{choice['best_tap']}, {choice['best_method']}"
        names = ((2, "value_chosen"), (4, "value_best"), (5, "value_mean"), (6, "regret"))
        for place, name in names:
            assert number(texts[place]) == pytest.approx(100 * choice[name], abs=0.0501)


def test_several_runs_show_the_mean_and_the_worst_regret_of_every_rule(two: Written) -> None:
    documents = [choice for document in two.documents for choice in document["choices"]]
    lines = two.page.by_id("table-choices").all("tbody")[0].all("tr")
    assert len(lines) == 6, "two rules and the blind choice, for two tasks"
    for line in lines:
        rule, task = line.all("th")[0].text.removesuffix(" ✓"), line.all("td")[0].text.partition(":")[0]
        own = [one for one in documents if one["task"] == task and one["rule"] == rule.replace("(blind)", "headline")]
        values = [abs(one["value_mean"] - one["value_best"]) if rule == "(blind)" else one["regret"] for one in own]
        texts = [cell.text for cell in line.all("td")[1:]]
        assert int(texts[0]) == len(values) == 2
        assert number(texts[1]) == pytest.approx(100 * sum(values) / 2, abs=0.0501)
        assert number(texts[2]) == pytest.approx(100 * max(values), abs=0.0501)


def test_differences_show_the_comparisons_numbers(two: Written) -> None:
    lines = two.page.by_id("table-differences").all("tbody")[0].all("tr")
    assert len(lines) == len(two.comparison["differences"])
    visible = [line for line in lines if "hidden" not in line.attributes]
    headline = [entry for entry in two.comparison["differences"] if entry["headline"]]
    assert len(visible) == len(headline)
    for line, entry in zip(visible, headline, strict=True):
        cells = line.all("td")
        assert number(cells[1].own_text) == pytest.approx(100 * entry["difference"], abs=0.0501)
        ends = [number(end) for end in cells[1].all("span")[0].text.strip("[]").split(", ")]
        assert ends == [pytest.approx(100 * entry[end], abs=0.0501) for end in ("low", "high")]
        better = entry["difference"] > 0 if entry["metric"] == "auroc" else entry["difference"] < 0
        undecided = entry["low"] <= 0 <= entry["high"]
        assert cells[3].text == ("no difference shown" if undecided else "better" if better else "worse")


def test_verdict_of_a_comparison_is_the_documents(two: Written) -> None:
    assert two.page.by_id("verdict").text == two.comparison["verdict"]


def test_verdict_of_one_run_is_the_headline_then_the_best_in_hindsight(one: Written) -> None:
    detection, transfer, *hindsight = (paragraph.text for paragraph in one.page.by_id("verdict").all("p"))
    document = one.documents[0]
    means = {
        row["method"]: row["value"]
        for row in document["rows"]
        if row["dataset"] == "mean"
        and (row["group"], row["tap"], row["metric"]) == ("ood", head_tap(document), "fpr95_id_positive")
    }
    assert f"{100 * means['knn']:.1f} %" in detection and f"{100 * means['energy']:.1f} %" in detection
    assert detection.startswith("OOD detection on projector, fixed before any test set was read: mean FPR95")
    assert transfer.startswith("Transfer on encoder, fixed before any test set was read: mean transfer error")
    for text, task, better in zip(hindsight, ("detection", "transfer"), (min, max), strict=True):
        best = better((c for c in document["choices"] if c["task"] == task), key=lambda c: c["value_best"])
        value = best["value_best"] if task == "detection" else 1 - best["value_best"]
        assert text.startswith(f"Best {task} in hindsight, picked on the test sets")
        assert f"{best['best_tap']} with {best['best_method']}, mean {100 * value:.1f} %" in text
        (followed,) = (one for one in document["choices"] if one["task"] == task and one["recommended"])
        assert f"Recommended without these data is {followed['chosen_tap']} with {followed['method']}" in text
        assert f"a regret of {100 * followed['regret']:.1f} points" in text


def test_headline_is_what_stands(two: Written) -> None:
    lines = {line.all("th")[0].text: line.all("td") for line in two.page.by_id("headline").all("tbody")[0].all("tr")}
    for number_of_run, document in enumerate(two.documents):
        tap = head_tap(document)
        wanted = {
            "kind": "detection",
            "tap": tap,
            "method": "knn",
            "metric": "auroc",
            "dataset": "mean",
            "group": "ood",
        }
        (row,) = [row for row in document["rows"] if wanted.items() <= row.items()]
        cell = lines["Mean AUROC, knn"][number_of_run]
        assert float(cell["data-v"]) == row["value"]
        assert f"{tap}, knn" in cell.text
    assert lines["ID accuracy"][2].text.startswith("−0.6 [−1.9, +0.8]")


def test_a_row_of_the_headline_has_one_sign(two: Written) -> None:
    """Transfer stood as accuracy in the cells and as error in the difference."""
    lines = {line.all("th")[0].text: line.all("td") for line in two.page.by_id("headline").all("tbody")[0].all("tr")}
    assert not any("transfer accuracy" in name for name in lines)
    for cell, document in zip(lines["Mean transfer error"], two.documents, strict=False):
        wanted = {"kind": "transfer", "tap": "encoder", "method": "linear", "metric": "accuracy", "dataset": "mean"}
        (row,) = [row for row in document["rows"] if wanted.items() <= row.items()]
        assert float(cell["data-v"]) == pytest.approx(1 - row["value"])
    assert lines["Mean transfer error"][2].text.startswith("−6.2 [−9.0, −3.1]")
    assert lines["Mean transfer error"][2].text.endswith("better")


def test_id_accuracy_and_run_time_stand_in_every_section_of_results(two: Written) -> None:
    strips = [element for element in two.page.all("ul") if "strip" in (element["class"] or "").split()]
    assert len(strips) == 7
    for strip in strips:
        assert "baseline: ID accuracy 96.7" in strip.text
        assert "n = 360; evaluated in 14 s" in strip.text


def test_conventions_are_named(two: Written) -> None:
    shown = " ".join(element.own_text for element in two.page.all() if element.tag not in ("script", "style"))
    assert "FPR95 (ID positive)" in shown
    assert not re.search(r"FPR95(?! \()", shown)
    assert not re.search(r"fpr95(?!_id_positive|_ood_positive)", shown)


def test_small_sets_show_n_and_base_rate(one: Written) -> None:
    sets = one.page.by_id("table-detectors").all("thead")[0].all("tr")[1].text
    assert "n = 240, base rate 40 %" in sets
    assert "n = 360 held-out ID images" in one.page.by_id("table-detectors").all("caption")[0].text


def test_undefined_measurements_are_told(one: Written) -> None:
    told = one.page.by_id("undefined").text
    reasons = {row["reason"] for row in one.documents[0]["rows"] if row["value"] is None}
    assert len(reasons) == 4
    assert all(reason in told for reason in reasons)


def test_data_notes_and_warnings(one: Written) -> None:
    line = next(row for row in one.page.by_id("table-datasets").all("tr") if row.text.startswith("other-digits"))
    assert "20 of 240 files are also in ID test" in line.text
    assert "class names shared with ID: seven" in line.text
    assert "left out: 1 (first: img/7.png, truncated file)" in line.text.replace(": truncated", ", truncated")
    assert "empty-folder holds no images" in one.page.text


def test_structure_is_accessible(two: Written) -> None:
    (html,) = two.page.all("html")
    assert html["lang"] == "en"
    assert two.page.all("title")[0].text
    levels = [HEADINGS.index(element.tag) for element in two.page.all(*HEADINGS)]
    assert levels.count(0) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(table.all("caption") for table in two.page.all("table"))
    assert all(head["scope"] for head in two.page.all("th"))
    charts = [element for element in two.page.all("div") if element["class"] == "chart"]
    assert len(charts) == 19
    assert all(chart["role"] == "group" and chart["aria-label"] for chart in charts)
    assert all(figure.all("figcaption") for figure in two.page.all("figure"))
    landmarks = [two.page.by_id(part["aria-labelledby"]).text for part in two.page.all("section")]
    landmarks += [part["aria-label"] for part in two.page.all("div") if part["role"] == "region"]
    assert len(landmarks) == len(set(landmarks)) > 20
    ids = [element["id"] for element in two.page.all() if element["id"]]
    assert len(ids) == len(set(ids))
    targets = [link["href"][1:] for link in two.page.all("a") if link["href"].startswith("#")]
    assert set(targets) <= set(ids)


def test_foreign_model_has_no_training_section(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    for name in ("metrics.jsonl", "config.yaml", "environment.json"):
        (run / name).unlink()
    page = read_page(write_report(run))
    assert "training" not in [element["id"] for element in page.all()]
    assert not [element for element in page.all("div") if element["id"] == "chart-loss"]
    assert "evaluated as it was given" in page.text


def test_the_course_of_controlled_taps_is_there_where_there_are_any(two: Written, tmp_path: Path) -> None:
    assert {"chart-control", "chart-control-weight"} <= {element["id"] for element in two.page.all("div")}
    plain = write_report(build_run(tmp_path / "run", strength=0.35))
    assert "chart-control" not in plain.read_text(encoding="utf-8")


def test_collapse_during_training_is_drawn_where_it_was_logged(two: Written, tmp_path: Path) -> None:
    assert "chart-training-collapse" in {element["id"] for element in two.page.all("div")}
    run = build_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    bare = [{name: value for name, value in line.items() if not name.startswith("collapse/")} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare), encoding="utf-8")
    present = {element["id"] for element in read_page(write_report(run)).all("div")}
    assert "chart-loss" in present and "chart-training-collapse" not in present


def test_correlations_of_which_none_is_defined_are_one_sentence(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    document = load(run)
    for row in document["relations"]:
        row |= {"pearson": None, "reason": "2 taps with both values; at least 3 are needed"}
    write_document(run, document)
    page = read_page(write_report(run))
    assert "No correlation is defined: 2 taps with both values; at least 3 are needed." in page.text
    assert "table-relations" not in {element["id"] for element in page.all()}


def test_a_command_that_made_several_runs_is_told_once(tmp_path: Path) -> None:
    names = ("first", "second", "third", "fourth")
    runs = [build_run(tmp_path / name, name) for name in names]
    for run, command in zip(runs, ("alpha", "beta", "alpha", None), strict=True):
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        (run / "environment.json").write_text(
            json.dumps(environment | {"command": command and [command]}), encoding="utf-8"
        )
    page = read_page(write_comparison(runs, tmp_path / "four.html", build_comparison(tmp_path / "two")[1]))
    made = page.text.rpartition("How to reproduce")[2].partition("Written ")[0]
    assert re.findall(r"alpha|beta|ood-nc run --config config.yaml", made) == [
        "alpha",
        "beta",
        "ood-nc run --config config.yaml",
    ]
    assert "With config.yaml in first, third." in made and "With config.yaml in second." in made
    assert page.all("h1")[0].text == "3 others against first"


def test_bare_results_still_make_a_report(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    document = load(run)
    taps = document["identity"]["taps"]
    document |= {"identity": {"taps": taps}, "relations": [], "choices": [], "series": {}}
    document["rows"] = [row for row in document["rows"] if row["kind"] == "accuracy"]
    write_document(run, document)
    page = read_page(write_report(run))
    assert "no detection or transfer figures" in page.by_id("verdict").text
    present = {element["id"] for element in page.all()}
    assert not present & {"detection", "transfer", "trade-off", "table-collapse", "figure-collapse"}


def test_settings_that_differ(two: Written) -> None:
    tables = [
        [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")] for table in two.page.all("table")
    ]
    head, *rows = next(lines for lines in tables if "model.projector.kind" in lines[0])
    columns = dict(zip(head, zip(*rows, strict=True), strict=True))
    assert columns["Run"] == ("baseline", "controlled")
    assert columns["model.projector.kind"] == ("none", "simplex_etf")
    assert columns["loss.entropy_weight"] == ("0.0", "0.05")
    assert not columns.keys() & {"optim.lr", "experiment"}


@pytest.mark.parametrize(("count", "on_paper"), [(12, True), (45, False)])
def test_many_settings_are_rows_and_very_many_are_not_printed(tmp_path: Path, count: int, on_paper: bool) -> None:
    runs, comparison = build_comparison(tmp_path)
    for run in runs:
        settings = "".join(f"  key_{key}: of-{run.name}\n" for key in range(count))
        (run / "config.yaml").write_text(f"data:\n{settings}", encoding="utf-8")
    page = read_page(write_comparison(runs, tmp_path / "comparison.html", comparison))
    (table,) = (table for table in page.all("table") if "by-key" in (table["class"] or ""))
    head, *rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
    assert head == ["What", *(run.name for run in runs)]
    assert rows == [[f"data.key_{key}", *(f"of-{run.name}" for run in runs)] for key in range(count)]
    hidden = [
        division for division in page.all("div") if division["class"] == "screen" and table in division.all("table")
    ]
    told = [text for text in page.all("p") if text["class"] == "paper" and text.text.startswith(f"{count} keys")]
    assert (not hidden, not told) == (on_paper, on_paper)


def test_report_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    before = {path.name for path in run.iterdir()}
    (run / "report.html").write_text("old", encoding="utf-8")
    assert write_report(str(run)) == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
    assert (run / "report.html").read_text(encoding="utf-8") != "old"


def test_a_command_can_be_pasted(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    words = ["ood-nc", "run", "--config", "my config.yaml", "--loss.entropy_weight", "{encoder: 0.1}"]
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    (run / "environment.json").write_text(json.dumps(environment | {"command": words}), encoding="utf-8")
    page = read_page(write_report(run))
    (command,) = [pre.text for pre in page.all("pre") if pre.text.startswith("ood-nc run")]
    assert shlex.split(command) == words
