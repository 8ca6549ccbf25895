from __future__ import annotations

from pathlib import Path

import pytest

from ood_nc.report.documents import read_runs
from ood_nc.report.figures import plotly_figure
from ood_nc.report.figures.figure import Figure, Panel, Series, style
from tests.helpers.report_runs import build_run


@pytest.mark.parametrize(
    ("label", "values", "log"),
    [
        ("NC1", [500.0, 8.0, 2.0, 0.4], True),
        ("NC1", [30.0, 8.0, 2.0, 0.4], False),
        # Zero has no logarithm, an entropy is negative, percentages have an end.
        ("NC1", [500.0, 8.0, 2.0, 0.0], False),
        ("entropy", [500.0, 1.0, -1.0, 2.0], False),
        ("FPR95, %", [99.0, 1.0, 0.5, 0.2], False),
        ("NC1", [None, None], False),
    ],
)
def test_an_axis_is_logarithmic_where_one_point_would_flatten_the_rest(
    label: str, values: list[float | None], log: bool
) -> None:
    panel = Panel("a", "tap", label, [Series("run", [f"tap{i}" for i in range(len(values))], values)])
    assert panel.log_y is log
    axis = plotly_figure(Figure("a", "A", [panel]))["layout"]["yaxis"]
    assert (axis.get("type") == "log") is log


def test_where_the_colours_begin_again_the_symbols_differ(tmp_path: Path) -> None:
    runs = read_runs([build_run(tmp_path / f"run {letter}", f"run {letter}", epochs=1) for letter in "abcdefghij"])
    looks = [tuple(style(runs, run, 0).values()) for run in runs]
    assert len(set(looks)) == len(runs) and looks[:2] == [(0, 0), (1, 0)]
