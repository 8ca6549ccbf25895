from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_nc.evaluation import Results, evaluate, tap_measurements
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments

TIMES = ("seconds", "memory")


def _measured(found: Results) -> list[dict[str, Any]]:
    return [row for row in found.rows if row["metric"] not in TIMES]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Taps are measured on two cores; gives the number of torch's threads that measured each."""
    before, seen = torch.get_num_threads(), {}
    measure = tap_measurements._measure_tap

    def watched(plan: Any, name: str) -> Any:
        seen[name] = torch.get_num_threads() if threading.current_thread() is not threading.main_thread() else 0
        return measure(plan, name)

    monkeypatch.setattr(tap_measurements, "_measure_tap", watched)
    torch.set_num_threads(2)
    yield seen
    torch.set_num_threads(before)


@pytest.mark.slow
def test_taps_beside_each_other_give_what_they_give_one_by_one(
    threads: dict[str, int], model: ControlledModel, tmp_path: Path
) -> None:
    options = {
        **arguments(),
        "cache": tmp_path,
        "detectors": ["energy", "mahalanobis", "vim", "knn"],
        "ensembles": ["rank"],
    }
    evaluate(model, **{**options, "detectors": ["energy"], "probes": []})  # so that both read the same banks
    beside = evaluate(model, **options)
    assert len(threads) == 3 and set(threads.values()) == {1}, "each has its share of the cores"
    assert torch.get_num_threads() == 2, "and the caller still has all"
    torch.set_num_threads(1)
    one_by_one = evaluate(model, **options)
    assert set(threads.values()) == {0}
    assert _measured(beside) == _measured(one_by_one)
    assert beside.scores.equals(one_by_one.scores)
    assert beside.series["maps"] == one_by_one.series["maps"]


def test_the_seconds_of_taps_beside_each_other_are_no_more_than_passed(
    threads: dict[str, int], model: ControlledModel
) -> None:
    seconds = evaluate(model, **arguments()).identity["seconds"]
    assert threads and sum(seconds.values()) <= 2 * seconds["total"]


def test_what_a_tap_raises_ends_the_evaluation(
    tiny: Callable[..., ControlledModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(plan: Any, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    monkeypatch.setattr(tap_measurements, "_measure_tap", failing)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="no layer2"):
            evaluate(tiny(), **arguments())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
