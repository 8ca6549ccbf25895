from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.scores import EmptySideError, ScoreAccumulator, bootstrap_intervals, detection_metrics


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_equal_to_one_call_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    inside, outside = (rng.normal(shift, 1, size).astype(dtype) for shift, size in ((1, 5000), (0, 3001)))
    whole = detection_metrics(inside, outside)
    accumulator = ScoreAccumulator()
    for part in np.array_split(inside, 7):
        accumulator.update(id_scores=part)
        accumulator.compute() if len(accumulator.ood_scores) else None
    accumulator.update(ood_scores=torch.from_numpy(outside[:10])).update((), outside[10:])
    assert accumulator.compute() == whole
    assert accumulator.intervals(["auroc"], replicates=20) == bootstrap_intervals(
        inside, outside, ["auroc"], replicates=20
    )


def test_merge_in_any_order():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    parts = [ScoreAccumulator().update(inside[k::3], outside[k::3]) for k in range(3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged is parts[2]
    assert merged.compute() == detection_metrics(inside, outside)
    parts[0].update(id_scores=[1e9])
    assert merged.compute() == detection_metrics(inside, outside)


def test_keeps_copies():
    scores = np.ones(3)
    accumulator = ScoreAccumulator().update(scores, [0.0])
    scores[:] = -1
    assert accumulator.compute()["auroc"] == 1


def test_nothing_yet():
    with pytest.raises(EmptySideError):
        ScoreAccumulator().update(id_scores=[1.0]).compute()


def test_large_integers_beside_floats_are_refused():
    accumulator = ScoreAccumulator().update(np.array([2**53 + 1]), [0.0]).update(np.array([0.5]))
    with pytest.raises(UserError, match=r"id_scores\[0\] holds integers above 2\^53"):
        accumulator.compute()
