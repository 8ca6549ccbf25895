from __future__ import annotations

import sys

import numpy as np
import pytest

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.errors import MissingPackageError
from ood_nc.evaluation import Results
from ood_nc.notebook import data_frame, html_table, short
from tests.helpers.fakes import fake_pandas


def test_cells_are_escaped_and_nothing_is_a_dash() -> None:
    text = html_table(["a<b", "c"], [["<script>x</script>", None], [1, "é"]], caption="1 & 2")
    assert "<script>" not in text and "&lt;script&gt;x&lt;/script&gt;" in text
    assert text.count("<tr>") == 3 and "<td>–</td>" in text and "<caption>1 &amp; 2</caption>" in text


def test_three_digits() -> None:
    assert [short(value) for value in (0.12345, 1234.5, None)] == ["0.123", "1.23e+03", None]


def test_a_data_frame_is_made_where_pandas_is_and_refused_in_one_line_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pip install pandas\.$"):
        data_frame({"a": [1]})
    fake_pandas(monkeypatch)
    assert data_frame({"a": (1, 2), "b": ["x", None]}) == {"a": [1, 2], "b": ["x", None]}


def test_a_collapse_report_is_short_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(60, 4)) + np.eye(4)[np.arange(60) % 3]
    report = measure(ClassStatistics(3, 4).update(features, np.arange(60) % 3))
    assert (
        repr(report).startswith("CollapseReport(60 samples, 3 classes, d=4: trace_within=") and len(repr(report)) < 160
    )
    text = report._repr_html_()
    assert f"<td>{report.cdnv:.3g}</td>" in text and report.reasons["nc4_bias"] in text
    fake_pandas(monkeypatch)
    frame = report.to_pandas()
    assert dict(zip(frame["metric"], frame["value"], strict=True)) == report.to_dict()


def test_results_of_rows_alone_show_what_they_are() -> None:
    assert "0 rows" in Results([])._repr_html_()
