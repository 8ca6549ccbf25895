from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.report.documents import read_runs
from ood_nc.report.payload import LOG_POINTS, Index, build_payload, merged_taps
from tests.helpers.report_pages import read_data
from tests.helpers.report_runs import build_run, write_document

from .conftest import Written


def test_every_row_is_in_the_page(two: Written) -> None:
    data = read_data(two.page)
    sets = [(entry["name"], entry["group"]) for entry in data["datasets"]]
    for number, document in enumerate(two.documents):
        for row in document["rows"]:
            method = 0 if row["kind"] == "collapse" else data["methods"].index(row["method"])
            place = sets.index((row["dataset"], row["group"]))
            series = data["series"][f"{number} {row['kind']} {place} {method} {row['metric']}"]
            tap = data["taps"].index(row["tap"])
            if row["value"] is None:
                assert series["v"][tap] is None
                assert data["reasons"][series["r"][str(tap)]] == row["reason"]
                continue
            assert series["v"][tap] == pytest.approx(row["value"], rel=1e-5)
            if row["low"] is not None:
                assert series["l"][tap] == pytest.approx(row["low"], rel=1e-5)
                assert series["h"][tap] == pytest.approx(row["high"], rel=1e-5)
            assert (series["n"][tap] if isinstance(series["n"], list) else series["n"]) == row["n"]


def test_every_relation_is_in_the_page(two: Written) -> None:
    data = read_data(two.page)
    for number, relations in enumerate([*(d["relations"] for d in two.documents), two.comparison["relations"]]):
        assert len(data["relations"][str(number)]) == len(relations)
        for row in relations:
            key = f"{row['kind']} {row['y']} {row['method']} {int(row['normalized'])} {row['x']}"
            shown = data["relations"][str(number)][key]
            assert shown[0] == (None if row["pearson"] is None else pytest.approx(row["pearson"], rel=1e-5))
            assert shown[6] == row["n"]
            assert shown[9] == row["reason"]


def test_taps_of_runs_are_merged_in_depth_order(tmp_path: Path) -> None:
    taps = (("a", "b", "encoder"), ("a", "x", "b", "encoder", "projector"), ("stem", "a", "encoder"))
    runs = read_runs([build_run(tmp_path / str(i), f"r{i}", taps=names, epochs=1) for i, names in enumerate(taps)])
    assert merged_taps(runs) == ["stem", "a", "x", "b", "encoder", "projector"]


def test_histograms_keep_uneven_edges(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    document["series"]["histograms"][0] |= {"edges": [0, 1, 5], "counts": [3, 4]}
    write_document(run, document)
    runs = read_runs([run])
    shown = build_payload(runs, Index(runs))["histograms"]
    assert shown[0][4:] == [[0, 1, 5], [3, 4]]
    assert shown[1][4] == [-4, 5.6]
    assert len(shown[1][5]) == 24


def test_long_logs_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    runs = read_runs([build_run(tmp_path / "run", epochs=5 * LOG_POINTS + 1)])
    curve = build_payload(runs, Index(runs))["runs"][0]["train"]["curves"]["train"]
    assert len(curve["x"]) <= LOG_POINTS + 1
    assert (curve["x"][0], curve["x"][-1]) == (1, 5 * LOG_POINTS + 1)
    assert {len(values) for values in curve["y"].values()} == {len(curve["x"])}


def test_logs_without_epochs_go_by_step(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    (run / "metrics.jsonl").write_text('{"step": 5, "loss": 1.5}\n{"step": 9, "loss": null}\n', encoding="utf-8")
    runs = read_runs([run])
    training = build_payload(runs, Index(runs))["runs"][0]["train"]
    assert training == {"unit": "step", "curves": {"train": {"x": [5, 9], "y": {"loss": [1.5, None]}}}}


def test_the_page_without_plotly_is_small(one: Written, two: Written) -> None:
    from plotly.offline import get_plotlyjs

    plotly = len(get_plotlyjs().encode())
    assert one.path.stat().st_size - plotly < 300_000
    assert two.path.stat().st_size - plotly < 600_000


def test_no_two_runs_look_alike(tmp_path: Path) -> None:
    names = [*(f"arm{letter}" for letter in "abcdefghij"), *(f"armk-seed{seed}" for seed in range(7))]
    runs = read_runs([build_run(tmp_path / name, name, epochs=1) for name in names])
    shown = build_payload(runs, Index(runs))["runs"]
    looks = [(run["color"] % 8, run["symbol"]) for run in shown]
    assert [symbol for _, symbol in looks[:8]] == list(range(8))
    assert len(set(looks)) == len(looks)
