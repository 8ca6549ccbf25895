from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.documents import (
    check_schema,
    is_one_set,
    measured_taps,
    partial_means,
    plain,
    read_results,
    seal,
    write_results,
)
from ood_nc.errors import UserError
from tests.helpers.rows import accuracy_row, detection_row, transfer_row

PARTS: dict[str, Any] = {"identity": {"taps": [{"name": "encoder", "depth": 0}]}, "rows": [], "relations": []}
PARTS |= {"choices": [], "series": {}, "scores": None}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rows = [detection_row("encoder", "svhn", 0.1), accuracy_row("encoder", 1 / 3)]
    write_results(tmp_path, {**PARTS, "rows": rows})
    assert read_results(tmp_path) == {**PARTS, "rows": rows}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, ["schema 2", "install a newer"]),
        ({"schema": 0}, ["schema 0", "evaluate the run again"]),
        ({"schema": None}, ["does not name its schema"]),
        ({"rows": {}}, ["rows are missing"]),
        ({"series": None}, ["series are missing"]),
        ({"rows": [{"metric": "auroc"}]}, ["row 0 lacks the column 'run'"]),
        ({"rows": [3]}, ["row 0 lacks"]),
        ({"rows": [detection_row("encoder", "svhn", 0.1, metric="fpr95")]}, ["row 0 is a bare 'fpr95'"]),
    ],
)
def test_what_is_no_such_document_is_one_line(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(seal({"schema": 1, **PARTS, **change})))
    with pytest.raises(UserError) as caught:
        read_results(tmp_path)
    assert all(word in str(caught.value) for word in [*words, "results.json"]) and "\n" not in str(caught.value)


def test_a_value_changed_by_hand_is_refused(tmp_path: Path) -> None:
    write_results(tmp_path, {**PARTS, "rows": [detection_row("encoder", "svhn", 0.25)]})
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace("0.25", "0.24"))
    with pytest.raises(UserError, match="not what was written"):
        read_results(tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="Cannot read"):
        read_results(tmp_path)


def test_a_comparison_has_the_same_schema() -> None:
    check_schema({"schema": 1}, "The comparison")
    with pytest.raises(UserError, match="The comparison has schema 9"):
        check_schema({"schema": 9}, "The comparison")


def test_aliases_lead_to_what_was_measured() -> None:
    taps = [{"name": "stem"}, {"name": "encoder", "aliases": ["layer4", "pool"]}]
    assert measured_taps({"taps": taps}) == {
        "stem": "stem", "encoder": "encoder", "layer4": "encoder", "pool": "encoder"
    }  # fmt: skip


def test_plain() -> None:
    value = {"a": (np.int64(1), torch.tensor([1.5, math.nan])), 2: {"b": {True}}, "c": None, "d": "text"}
    assert plain(value) == {"a": [1, [1.5, None]], "2": {"b": [True]}, "c": None, "d": "text"}


def test_is_one_set() -> None:
    assert is_one_set(detection_row("encoder", "svhn", 0.1)) and is_one_set(accuracy_row("encoder", 0.1))
    for name in ("mean", "svhn (disjoint)", None):
        assert not is_one_set(detection_row("encoder", name, 0.1))  # type: ignore[arg-type]


def test_means_without_a_set_that_others_are_over_are_named() -> None:
    rows = [
        detection_row(tap, name, 0.1, method=method)
        for tap in ("a", "b")
        for method in ("knn", "vim")
        for name in ("far", "svhn")
    ]
    assert partial_means(rows) == []
    rows[1] = detection_row("a", "svhn", None, method="knn", reason="it failed")
    rows += [detection_row("a", "fog", 0.1, group="covariate", method="vim"), transfer_row("a", "birds", 0.5)]
    assert partial_means(rows) == ["the means of knn at a are without svhn"]
    many = [detection_row("b", f"set{number}", 0.1, method="vim") for number in range(9)]
    assert partial_means([*rows[2:4], *rows[6:8], *many])[0].endswith("set4, set5 and 3 more")
    rows.append(detection_row("b", "near", 0.1, group="near", method="vim"))
    rows.append(transfer_row("b", "pets", 0.5))
    assert partial_means(rows) == [
        "the means of knn at a are without svhn, near",
        "the means of vim at a are without near",
        "the means of knn at b are without near",
        "the means of linear at a are without pets",
        "the means of linear at b are without birds",
    ]
