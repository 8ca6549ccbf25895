from __future__ import annotations

import sys

import pytest

from ood_nc.errors import MissingPackageError
from ood_nc.evaluation import COLUMNS, Results
from tests.helpers.fakes import fake_pandas
from tests.helpers.rows import collapse_row, detection_row, transfer_row

NC1 = {"stem": 8.0, "encoder": 2.0, "projector": 0.4}
FPR = {"stem": 0.9, "encoder": 0.4, "projector": 0.25}
ACCURACY = {"stem": 0.4, "encoder": 0.75}


@pytest.fixture
def results() -> Results:
    depth = {tap: place for place, tap in enumerate(NC1)}
    # In another order than depth.
    rows = [collapse_row(tap, NC1[tap], depth=depth[tap]) for tap in ("projector", "stem", "encoder")]
    for name in ("mean", "svhn"):
        group = "ood" if name == "mean" else "far"
        rows += [
            detection_row(tap, name, value, group=group, method="knn", depth=depth[tap]) for tap, value in FPR.items()
        ]
        rows += [
            transfer_row(tap, name if name == "mean" else "birds", value, depth=depth[tap])
            for tap, value in ACCURACY.items()
        ]
    taps = [{"name": tap, "depth": place} for tap, place in depth.items()]
    identity = {"run": "a<b", "taps": taps, "head_tap": "projector", "detectors": ["knn"], "probes": ["linear"]}
    return Results(rows, identity)


def test_a_notebook_shows_one_row_a_tap(results: Results) -> None:
    assert repr(results) == f"Results('a<b', {len(results.rows)} rows: 3 taps, 1 OOD sets, 1 transfer sets)"
    text = results._repr_html_()
    assert "a&lt;b" in text and "a<b" not in text
    lines = [line.split("<td>")[1:] for line in text.split("<tbody>")[1].split("</tr>")[:-1]]
    cells = [[cell.partition("<")[0] for cell in line] for line in lines]
    assert cells == [["stem", "8", "0.9", "0.6"], ["encoder", "2", "0.4", "0.25"], ["projector", "0.4", "0.25", "–"]]


def test_the_long_table_becomes_a_data_frame(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pandas(monkeypatch)
    frame = results.to_pandas()
    assert list(frame) == list(COLUMNS)
    assert [dict(zip(frame, values, strict=True)) for values in zip(*frame.values(), strict=True)] == results.rows


def test_layers_are_drawn_in_depth_order(results: Results) -> None:
    figure = results.plot.layers()
    assert [trace.name for trace in figure.data] == ["NC1", "mean FPR95 (ID positive), knn", "mean transfer error"]
    assert [list(trace.x) for trace in figure.data] == [list(NC1), list(NC1), list(ACCURACY)]
    assert list(figure.data[0].y) == [8.0, 2.0, 0.4] and figure.layout.yaxis.type == "log"
    assert list(figure.data[1].y) == pytest.approx([90, 40, 25])
    assert list(figure.data[2].y) == pytest.approx([60, 25])


def test_the_tradeoff_is_errors_against_collapse(results: Results) -> None:
    detection, transfer = results.plot.tradeoff().data
    assert list(detection.x) == [8.0, 2.0, 0.4] and list(detection.text) == list(NC1)
    assert list(transfer.x) == [8.0, 2.0] and list(transfer.y) == pytest.approx([60, 25])
    assert list(transfer.text) == ["", ""], "of the points above each other the highest is named"
    assert list(transfer.hovertext) == list(NC1)[:2]


def test_without_plotly_it_is_one_line(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingPackageError, match=r"pip install plotly\.$"):
        results.plot.layers()
