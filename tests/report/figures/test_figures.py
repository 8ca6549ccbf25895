"""The figures' numbers against numpy and against the documents they come from."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ood_nc.errors import UserError
from ood_nc.report import draw_figures
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.figures import FIGURES, Figure, build, plotly_figure, write_figures
from ood_nc.report.figures.figure import Panel, Series
from ood_nc.report.figures.files import as_csv
from tests.helpers.report_runs import build_run, write_document

NAMES = ["trade-off", "entropy", "outcomes", "histograms", "training", "maps", "profiles"]


def put_maps(directory: Path) -> None:
    document = json.loads((directory / "results.json").read_text())
    common = {"explained": [0.5, 0.25]}
    one = {"tap": "encoder", "view": "id", "dataset": "id_test", "x": [0.0, 1.0], "y": [2.0, 3.0], "labels": ["1", "0"]}
    both = [{**one, "view": "all"}, {**one, "view": "all", "dataset": "textures", "x": [4.0, 5.0]}]
    document["series"]["maps"] = [{**entry, **common} for entry in (one, *both)]
    write_document(directory, document)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    directories = [build_run(folder / f"ours-seed{seed}", f"ours-seed{seed}", seed=seed) for seed in (0, 1)]
    directories.append(build_run(folder / "baseline", "baseline", strength=0.3))
    for directory in directories:
        put_maps(directory)
    return read_runs(directories)


def figure(runs: list[Run], name: str) -> Figure:
    return next(one for one in build(runs) if one.name == name)


def measured(run: Run, **wanted: Any) -> dict[str, float]:
    return {row["tap"]: row["value"] for row in run.rows if wanted.items() <= row.items() and row["value"] is not None}


def test_all_seven_are_there_in_order(runs: list[Run]) -> None:
    figures = build(runs)
    assert [one.name for one in figures] == NAMES and len(FIGURES) == 10
    assert all(one.panels and one.missing is None for one in figures)


def test_the_trade_off_is_numpys_correlation_of_normalised_errors(runs: list[Run]) -> None:
    run = runs[0]
    panel = figure([run], "trade-off").panels[0]
    nc1 = measured(run, kind="collapse", dataset="id_train", metric="nc1_pinv")
    x, y = [], []
    for dataset in ("other-digits", "textures"):
        errors = measured(run, kind="detection", dataset=dataset, method="energy", metric="fpr95_id_positive")
        values = np.array([errors[tap] for tap in run.taps])
        x += [nc1[tap] for tap in run.taps]
        y += ((values - values.min()) / np.ptp(values)).tolist()
    assert np.allclose([value for one in panel.series for value in one.y], y)
    assert f"R = {np.corrcoef(x, y)[0, 1]:+.2f}".replace("-", "−") in panel.note and f"n = {len(x)}" in panel.note
    assert panel.series[0].labels == run.taps


def test_r_takes_the_logarithm_where_the_axis_does(runs: list[Run]) -> None:
    panel = figure(runs[:1], "entropy").panels[1]
    assert panel.log_x
    (one,) = panel.series
    expected = np.corrcoef(np.log(one.x), one.y)[0, 1]
    assert f"R = {expected:+.2f}".replace("-", "−") in panel.note


def test_outcomes_are_means_over_seeds_by_arm(runs: list[Run]) -> None:
    panel = next(one for one in figure(runs, "outcomes").panels if "energy" in one.title)
    wanted = {"kind": "detection", "dataset": "mean", "group": "ood", "method": "energy", "metric": "fpr95_id_positive"}
    values = [100 * measured(run, **wanted)[run.head_tap] for run in runs]
    assert [one.y for one in panel.series] == [[pytest.approx(np.mean(values[:2]))], [pytest.approx(values[2])]]
    assert panel.series[0].low == [pytest.approx(min(values[:2]))] and panel.series[0].labels == ["2 seeds"]


def test_bars_are_of_seeds_over_the_same_sets_and_say_what_they_are_over(runs: list[Run]) -> None:
    """A bar was the mean of whatever sets each seed had, beside bars over all of them."""

    def without(run: Run) -> Run:
        lost = {"kind": "detection", "dataset": "textures", "method": "energy", "tap": run.head_tap}
        return replace(run, rows=[{**row, "value": None} if lost.items() <= row.items() else row for row in run.rows])

    def panel(*some: Run) -> Panel:
        return next(one for one in figure(list(some), "outcomes").panels if "energy" in one.title)

    assert not panel(*runs).note
    split = panel(runs[0], without(runs[1]), runs[2])
    assert [one.labels for one in split.series] == [["1 seed"]]
    assert split.series[0].color == panel(*runs).series[1].color
    assert split.note.endswith("no mean, for not every seed has it over the same sets")
    fewer = panel(*runs[:2], without(runs[2]))
    assert [one.labels for one in fewer.series] == [["2 seeds"], ["1 seed"]] and fewer.note.endswith(
        ": without textures"
    )
    undefined = [{**row, "value": None} if row["dataset"] == "mean" else row for row in runs[1].rows]
    assert panel(runs[0], replace(runs[1], rows=undefined), runs[2]).note == split.note
    assert (
        "<br>" not in plotly_figure(figure([runs[0], without(runs[1])], "outcomes"))["layout"]["annotations"][0]["text"]
    )


def test_histograms_are_shares_with_fpr95_of_their_set(runs: list[Run]) -> None:
    panels = figure(runs[:1], "histograms").panels
    assert len(panels) == 2
    for panel in panels:
        assert all(sum(one.y) == pytest.approx(100) and len(one.x) == len(one.y) for one in panel.series)
    wanted = {"kind": "detection", "dataset": "textures", "method": "energy", "metric": "fpr95_id_positive"}
    value = measured(runs[0], **wanted)["encoder"]
    (told,) = re.findall(r"textures ([\d.]+) %", panels[0].note)
    assert float(told) == pytest.approx(100 * value, abs=0.051)


def test_training_holds_the_logs_numbers(runs: list[Run]) -> None:
    panel = figure(runs[:1], "training").panels[0]
    encoder = next(one for one in panel.series if one.name == "encoder")
    key = "collapse/encoder/nc1_pinv"
    expected = [(line["epoch"], line[key]) for line in runs[0].log if key in line and line["split"] == "collapse"]
    assert list(zip(encoder.x, encoder.y, strict=True)) == expected and len(expected) > 1


def test_maps_show_id_by_class_and_then_with_ood(runs: list[Run]) -> None:
    alone, together = figure(runs[:1], "maps").panels
    assert [(one.name, one.x) for one in alone.series] == [("class 0", [1.0]), ("class 1", [0.0])]
    assert [(one.name, one.x) for one in together.series] == [("ID", [0.0, 1.0]), ("textures", [4.0, 5.0])]
    assert "50 %" in alone.x and "25 %" in alone.y


def test_profiles_have_every_tap(runs: list[Run]) -> None:
    panels = figure(runs[:1], "profiles").panels
    nc1 = measured(runs[0], kind="collapse", dataset="id_train", metric="nc1_pinv")
    assert dict(zip(panels[0].series[0].x, panels[0].series[0].y, strict=True)) == nc1
    accuracy = measured(runs[0], kind="transfer", dataset="mean", method="linear", metric="accuracy")
    assert len(accuracy) == len(panels[-2].series[0].x)


def test_what_a_run_cannot_show_is_said(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    (run / "metrics.jsonl").unlink()
    missing = {one.name: one.missing for one in build(read_runs([run])) if one.missing}
    assert set(missing) == {"training", "maps"} and "collapse_interval" in missing["training"]


def test_csv_is_what_is_plotted(runs: list[Run]) -> None:
    for one in build(runs):
        read = list(csv.DictReader(io.StringIO(as_csv(one))))
        traces = plotly_figure(one)["data"]
        assert [row["series"] for row in read] == [trace["label"] for trace in traces for _ in trace["x"]]
        shown = [y for trace in traces for y in trace["y"]]
        assert np.allclose([float(row["y"]) for row in read], shown, rtol=1e-5)


def test_the_page_has_an_axis_pair_a_panel(runs: list[Run]) -> None:
    for one in build(runs):
        drawn = plotly_figure(one)
        assert {trace["xaxis"] for trace in drawn["data"]} == {"x", *(f"x{n}" for n in range(2, len(one.panels) + 1))}
        domains = [drawn["layout"][key]["domain"] for key in drawn["layout"] if key[1:5] == "axis"]
        assert all(0 <= low < high <= 1 + 1e-9 for low, high in domains)
        json.dumps(drawn, allow_nan=False)


def test_titles_stand_above_their_panels_and_say_what_an_axis_would(runs: list[Run]) -> None:
    drawn = {one.name: (one, plotly_figure(one)["layout"]) for one in build(runs) if one.panels}
    for one, layout in drawn.values():
        for number, (panel, title) in enumerate(zip(one.panels, layout["annotations"], strict=True)):
            x, y = (layout[f"{axis}axis{number + 1 if number else ''}"] for axis in "xy")
            assert (title["x"], title["xanchor"]) == (pytest.approx(sum(x["domain"]) / 2), "center")
            assert panel.y in (y["title"]["text"], title["text"])
    figure, layout = drawn["histograms"]
    for panel, title in zip(figure.panels, layout["annotations"], strict=True):
        assert title["text"].splitlines() == [panel.title, panel.note]


def test_a_logarithmic_axis_of_many_decades_has_room_for_its_ticks(runs: list[Run]) -> None:
    figure = next(one for one in build(runs) if any(panel.log_x for panel in one.panels))
    panel = next(panel for panel in figure.panels if panel.log_x)
    for spread, wanted in ((10.0, 5.0), (1000.0, 10.0)):
        series = [replace(one, x=[1.0, spread], y=[1.0, 2.0], low=None, high=None, labels=None) for one in panel.series]
        axis = plotly_figure(replace(figure, panels=[replace(panel, series=series)]))["layout"]["xaxis"]
        assert next(tick for tick in axis["tickvals"] if tick > 2) == wanted


@pytest.mark.slow
def test_files_are_vector_graphics_and_the_same_twice(runs: list[Run], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the figures extra")
    chosen = [one for one in build(runs[:1]) if one.name in ("entropy", "outcomes")]
    files, again = (write_figures(chosen, tmp_path / name) for name in ("a", "b"))
    assert {path.name for path in files} == {
        f"figure{stem}.{suffix}" for stem in ("1-entropy", "2-outcomes") for suffix in ("svg", "pdf", "csv")
    }
    heads = {".svg": b"<?xml", ".pdf": b"%PDF-", ".csv": b"panel,series,label,x,y,low,high\n"}
    assert all(path.read_bytes().startswith(heads[path.suffix]) for path in files)
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(files, again, strict=True))
    written = {path.suffix: path.read_bytes() for path in files}
    assert b"<text" in written[".svg"] and b"/FontFile2" in written[".pdf"] and b"/Type3" not in written[".pdf"]


def test_without_matplotlib_one_line_says_what_to_install(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"ood_nc\[figures\]"):
        draw_figures([runs[0].directory], tmp_path)


def test_paths_may_be_text(runs: list[Run], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the figures extra")
    files, _ = draw_figures([str(runs[0].directory)], str(tmp_path / "figures"))
    assert files and {path.parent for path in files} == {tmp_path / "figures"}


def test_no_name_in_csv_is_a_formula() -> None:
    one = Series("=cmd", ["@tap", 0.5], [-1.5, 2.0], labels=["+class", "cat"])  # type: ignore[list-item]
    rows = list(csv.DictReader(io.StringIO(as_csv(Figure("one", "One", [Panel("-title", "x", "y", [one])])))))
    assert [list(row.values()) for row in rows] == [
        ["'-title", "'=cmd", "'+class", "'@tap", "-1.5", "", ""],
        ["'-title", "'=cmd", "cat", "0.5", "2.0", "", ""],
    ]
