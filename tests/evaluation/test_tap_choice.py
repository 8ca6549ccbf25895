from __future__ import annotations

import pytest

from ood_nc.evaluation.tap_choice import choose_taps
from tests.helpers.rows import accuracy_row, collapse_row, detection_row, transfer_row

NC1 = {"stem": 30.0, "layer1": 8.0, "encoder": 2.0, "projector": 0.4}
ID_ACCURACY = {"stem": 0.3, "layer1": 0.85, "encoder": 0.9, "projector": 0.9}


def table(fpr: dict[str, tuple[float, ...]], accuracy: dict[str, float]) -> list[dict]:
    rows = [collapse_row(tap, value) for tap, value in NC1.items()]
    rows += [accuracy_row(tap, value) for tap, value in ID_ACCURACY.items()]
    rows += [detection_row(tap, f"set{i}", value) for tap, found in fpr.items() for i, value in enumerate(found)]
    return rows + [transfer_row(tap, "birds", value) for tap, value in accuracy.items()]


def by_task(rows: list[dict]) -> dict[str, dict]:
    return {choice["task"]: choice for choice in choose_taps(rows)}


def test_hand_computed_choice_and_regret() -> None:
    fpr = {"stem": (0.9, 0.8), "layer1": (0.7, 0.6), "encoder": (0.4, 0.2), "projector": (0.5, 0.3)}
    found = by_task(table(fpr, {"stem": 0.8, "layer1": 0.7, "encoder": 0.75, "projector": 0.5}))
    detection = found["detection"]
    assert (detection["chosen_tap"], detection["best_tap"]) == ("projector", "encoder")
    assert (detection["value_chosen"], detection["value_best"]) == (pytest.approx(0.4), pytest.approx(0.3))
    assert detection["regret"] == pytest.approx(0.1) and detection["metric"] == "fpr95_id_positive"
    # stem is the least collapsed, but its ID probe is below 90 % of 0.9; in hindsight it would have been best.
    transfer = found["transfer"]
    assert (transfer["chosen_tap"], transfer["best_tap"]) == ("layer1", "stem")
    assert transfer["regret"] == pytest.approx(0.1)
    assert "nc1_pinv" in transfer["rule"] and "90%" in transfer["rule"]


def test_run_times_are_no_accuracies() -> None:
    fpr, accuracy = {"encoder": (0.4,)}, {"stem": 0.8, "layer1": 0.7, "encoder": 0.75, "projector": 0.5}
    rows = table(fpr, accuracy)
    rows += [
        {**accuracy_row(tap, seconds), "metric": "seconds"} for tap, seconds in zip(NC1, (9, 1, 1, 1), strict=True)
    ]
    assert by_task(rows)["transfer"]["chosen_tap"] == "layer1"


def test_the_best_tap_has_no_regret() -> None:
    found = by_task(table({"encoder": (0.4,), "projector": (0.2,)}, {"layer1": 0.9, "encoder": 0.2}))
    assert found["detection"]["regret"] == 0 and found["transfer"]["regret"] == 0


def test_a_detector_undefined_on_the_chosen_tap_has_a_reason_instead_of_a_regret() -> None:
    rows = [*table({"encoder": (0.4,)}, {}), detection_row("projector", "set0", None, reason="signed")]
    (choice,) = choose_taps(rows)
    assert choice["regret"] is None and "projector" in choice["reason"] and choice["best_tap"] == "encoder"


def test_a_tap_that_misses_a_set_is_not_compared() -> None:
    found = by_task(table({"layer1": (0.1,), "encoder": (0.4, 0.2), "projector": (0.5, 0.3)}, {}))
    assert found["detection"]["best_tap"] == "encoder"


def test_what_stands_at_one_tap_only_is_no_choice_of_taps() -> None:
    rows = table({"encoder": (0.4,), "projector": (0.2,)}, {})
    rows.append({**detection_row("projector", "set0", 0.0), "method": "fisher(energy over taps)"})
    assert [choice["method"] for choice in choose_taps(rows) if choice["task"] == "detection"] == [rows[-2]["method"]]


def test_without_collapse_nothing_is_chosen() -> None:
    rows = [row for row in table({"encoder": (0.4,)}, {"encoder": 0.5}) if row["kind"] != "collapse"]
    for choice in choose_taps(rows):
        assert choice["chosen_tap"] is None and choice["regret"] is None and choice["reason"]


def test_means_and_overlap_rows_do_not_count() -> None:
    rows = table({"encoder": (0.4,), "projector": (0.2,)}, {})
    more = [detection_row("projector", "mean", 0.9), detection_row("projector", "set0 (disjoint)", 0.9)]
    assert choose_taps(rows + more) == choose_taps(rows)
