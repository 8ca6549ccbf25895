"""Figures as files: where their legends are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ood_nc.report.figures import files
from ood_nc.report.figures.figure import Figure, Panel, Series

pytest.importorskip("matplotlib", reason="needs matplotlib")


def drawn(figure: Figure, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The canvas that is saved, laid out."""
    kept: list[Any] = []
    monkeypatch.setattr(files, "_save", lambda canvas, path: kept.append(canvas))
    files.write_figures([figure], folder)
    kept[0].draw_without_rendering()
    return kept[0]


def panel(title: str, *series: Series) -> Panel:
    return Panel(title, "layer, in the order in which they run", "value", series)


def line(name: str, color: int, symbol: int = 0) -> Series:
    return Series(
        name,
        [str(depth) for depth in range(9)],
        [float(depth) for depth in range(9)],
        None,
        None,
        None,
        "line",
        color,
        symbol,
    )


def test_a_legend_of_all_panels_lies_on_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [f"a run with a long name {number}" for number in range(3)]
    alone = [line(name, number) for number, name in enumerate(runs)]
    split = [
        line(f"{name}, {part}", number, variant)
        for number, name in enumerate(runs)
        for variant, part in enumerate(("train", "test"))
    ]
    figure = Figure(
        "layers", "By depth", [panel("one", *alone), panel("two", *split), panel("three", *alone)], columns=2
    )
    canvas = drawn(figure, tmp_path, monkeypatch)
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [one.name for one in (*alone, *split)]
    assert all(axes.get_legend() is None for axes in canvas.axes)
    place = legend.get_window_extent()
    assert not any(place.overlaps(axes.get_tightbbox()) for axes in canvas.axes)
    assert place.x0 >= 0
    assert place.x1 <= canvas.bbox.x1


def test_a_name_that_looks_different_in_two_panels_is_told_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = [
        panel(title, line("first", color), line("second", 1 - color)) for color, title in enumerate(("one", "two"))
    ]
    canvas = drawn(Figure("twice", "Twice", panels), tmp_path, monkeypatch)
    assert not canvas.legends
    told = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in canvas.axes]
    assert told == [["first", "second"]] * 2


def test_names_of_neighbouring_points_do_not_lie_on_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["resnet20", "mobilenet", "resnet32"]
    points = Series("points", [0.72, 1.3, 0.66], [83.0, 16.0, 83.0], labels=names, mark="points")
    canvas = drawn(Figure("one", "One", [Panel("shift", "distance", "accuracy, %", [points])]), tmp_path, monkeypatch)
    boxes = {text.get_text(): text.get_window_extent() for text in canvas.axes[0].texts}
    assert set(boxes) == set(names)
    assert not boxes["resnet20"].overlaps(boxes["resnet32"])


def test_a_point_outside_of_its_interval_is_drawn_with_what_of_it_there_is(tmp_path: Path) -> None:
    one = Series("few images", ["a", "b", "c"], [0.9, 0.1, 0.5], low=[0.2, 0.3, 0.4], high=[0.8, 0.4, 0.7])
    below, above = one.reach or ([], [])
    assert below == pytest.approx([0.7, 0.0, 0.1]) and above == pytest.approx([0.0, 0.3, 0.2])
    assert len(files.write_figures([Figure("few", "Few images", [panel("few", one)])], tmp_path)) == 3


def test_names_are_written_as_they_are(tmp_path: Path) -> None:
    name, places, values = r"_US$ and CA$ \frac", ["a", "b", "c"], [0.001, 1.0, 900.0]
    series = [Series(name, [name, *places[1:]], values), Series("other", places, values, color=2)]
    files.write_figures([Figure("names", name, [Panel(name, name, name, series, note=name)])], tmp_path)
    tree = ElementTree.parse(tmp_path / "figure1-names.svg")
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count(name) == 6, "the figure's title, the panel's, its note, an axis, a place on it and the legend"
    assert {"0.001", "1", "100"} <= set(texts), "the ticks of a logarithmic axis"
