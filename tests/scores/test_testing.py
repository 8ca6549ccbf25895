from __future__ import annotations

import numpy as np
import pytest

from ood_nc.conformance import CheckError
from ood_nc.scores import METRICS, RankCounts, ScoreMetric, check_metric


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_conforms(name):
    check_metric(name)


def found_above(counts: RankCounts) -> np.ndarray:
    return np.where(counts.id_below == 0, counts.ood_through, 0).max(axis=-1) / counts.m


def test_a_metric_of_ones_own_conforms():
    check_metric(ScoreMetric("share of OOD not above any ID sample", found_above, "max"))


@pytest.mark.parametrize(
    ("formula", "reduction", "message"),
    [
        (lambda counts: counts.id.sum(axis=-1), "sum", "not a share in"),
        (found_above, "sum", "over two stretches of groups"),
        # An empty group counts although nothing was drawn there.
        (lambda counts: np.full(len(counts.id), counts.id.shape[1] / 1000), "sum", "for a resample"),
    ],
)
def test_what_does_not_conform_is_named(formula, reduction, message):
    with pytest.raises(CheckError, match=f"gives .*{message}"):
        check_metric(ScoreMetric("one line", formula, reduction))


def test_a_definition_is_one_line():
    with pytest.raises(CheckError, match="no definition"):
        check_metric(ScoreMetric("", found_above, "max"))
