from __future__ import annotations

import numpy as np

from ood_nc.evaluation.scores_table import correct_column, read_samples, score_column, scores_table


def test_columns_of_all_sets_are_joined_with_nulls_where_they_do_not_concern_a_set() -> None:
    score, right = score_column("encoder", "knn"), correct_column("encoder", "head")
    table = scores_table(
        [
            ("id", "id_test", ("a", "b"), {score: np.array([0.5, 1.5]), right: np.array([True, False])}),
            ("far", "svhn", ("a",), {score: np.array([-1.0])}),
        ]
    )
    assert table.to_pylist() == [
        {"group": "id", "dataset": "id_test", "id": "a", score: 0.5, right: True},
        {"group": "id", "dataset": "id_test", "id": "b", score: 1.5, right: False},
        {"group": "far", "dataset": "svhn", "id": "a", score: -1.0, right: None},
    ]
    read = read_samples(table)
    assert list(read.ids) == [("id", "id_test"), ("ood", "svhn")] and read.groups["ood", "svhn"] == "far"
    assert read.get(("id", "id_test"), right).tolist() == [True, False]
    assert read.get(("ood", "svhn"), right) is None, "a column with nulls in a set is not there"


def test_a_column_with_nan_is_not_there() -> None:
    read = read_samples(scores_table([("near", "x", ("a", "b"), {"score/e/knn": np.array([0.0, np.nan])})]))
    assert read.get(("ood", "x"), "score/e/knn") is None
