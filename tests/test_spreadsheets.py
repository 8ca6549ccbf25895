"""Cells that no spreadsheet may take for a formula."""

from __future__ import annotations

import pytest

from ood_nc.spreadsheets import as_cell, as_row


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_a_formula_becomes_text(text: str) -> None:
    assert as_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["cat", "a=b", "", "'=1", "1.5", -1.5, None, True])
def test_all_else_stays(value: object) -> None:
    assert as_cell(value) is value


def test_a_row() -> None:
    assert as_row(["=x", 1, None]) == ["'=x", 1, None]
