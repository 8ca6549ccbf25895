from __future__ import annotations

import csv
import io
import re

import pytest

from ood_nc.evaluation import compare
from ood_nc.report.comparison_tables import comparison_table
from tests.evaluation.test_compare import run
from tests.helpers.rows import accuracy_row


@pytest.fixture(scope="module")
def comparison() -> dict:
    a, b = run("base_1"), run("50%&more", gap=2.0, accuracy=0.7, draw=2)
    for result, ece in ((a, 0.05), (b, 0.02)):
        result.rows.append(accuracy_row("encoder", ece, method="head", metric="ece"))
    return compare([a, b], replicates=40)


def test_csv_has_every_number_in_full(comparison: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_table(comparison, "csv"))))
    for row, own in zip(rows, comparison["standings"], strict=False):
        assert float(row["value"]) == own["value"] and (row["run"], row["metric"]) == (own["run"], own["metric"])
    assert [row["value"] for row in rows if row["metric"] == "pareto"] == [
        one["standing"] for one in comparison["pareto"]
    ]
    assert len(rows) == len(comparison["standings"]) + len(comparison["pareto"])


def test_markdown_is_a_row_a_run_in_percent(comparison: dict) -> None:
    head, rule, *rows, blank, legend = comparison_table(comparison, "markdown").splitlines()
    assert len(rows) == 2 and len({line.count("|") for line in (head, rule, *rows)}) == 1
    cells = dict(zip(head.split(" | "), rows[1].split(" | "), strict=True))
    (own,) = (
        one for one in comparison["standings"] if (one["run"], one["metric"]) == ("50%&more", "fpr95_id_positive")
    )
    expected = f"{100 * own['value']:.1f} [{100 * own['low']:.1f}, {100 * own['high']:.1f}] *"
    assert cells["mean FPR95 (ID positive) by energy, %"] == expected
    assert cells["ECE, %"] == "2.0" and "no difference from the best" in legend and blank == ""


def test_latex_escapes_what_names_may_hold(comparison: dict) -> None:
    text = comparison_table(comparison, "latex")
    assert comparison_table(
        {**comparison, "standings": [comparison["standings"][0] | {"run": "{a}$^"}]}, "latex"
    ).count(r"\{a\}\$\^{} & 1")
    assert r"50\%\&more" in text and r"base\_1" in text and text.startswith(r"\begin{tabular}{lr")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = len(re.findall("r", text.splitlines()[0].rpartition("{")[2])) + 1
    assert len(lines) == 3 and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in lines)
