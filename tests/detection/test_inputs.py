from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import NonFiniteError, TapQueries, TapStatistics

ROWS = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(3, 8))
BIAS = np.array([0.5, -0.25, 40.0])
BOTH = frozenset({"features", "logits"})


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_largest_logit_and_log_sum_exp_of_a_head_are_those_of_its_logits(scale: float) -> None:
    queries = TapQueries(ROWS, head=(scale * WEIGHT, BIAS))
    logits = ROWS.astype(np.float64) @ (scale * WEIGHT.T) + BIAS
    np.testing.assert_allclose(queries.max_logit, logits.max(axis=1), rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(queries.log_sum_exp, logsumexp(logits, axis=1), rtol=1e-6, atol=1e-6 * scale)


def test_logits_of_a_head_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ood_nc.detection.inputs._NUMBERS", 1)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", 7)
    assert len(ROWS) % 7
    test_largest_logit_and_log_sum_exp_of_a_head_are_those_of_its_logits(1.0)
    assert TapQueries(ROWS[:0], head=(WEIGHT, BIAS)).log_sum_exp.shape == (0,)


def test_probabilities_close_to_1_keep_their_digits_though_the_features_are_float32() -> None:
    gaps = np.linspace(17, 29, 200)
    queries = TapQueries(gaps[:, None].astype(np.float32), head=(np.array([[1.0], [0.0]]), None))
    lost = (queries.log_sum_exp - queries.max_logit).numpy()
    np.testing.assert_allclose(lost, np.log1p(np.exp(-gaps)), rtol=1e-5, atol=1e-14)


def test_logits_beyond_float32_are_computed_in_float64() -> None:
    rows = np.float32([[3e38, 0.0], [1.0, 2.0]])
    queries = TapQueries(rows, head=(np.array([[2.0, 0.0], [0.0, 1.0]]), None))
    queries.check(BOTH)
    np.testing.assert_allclose(queries.max_logit, [2 * np.float64(rows[0, 0]), 2.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [TapQueries, TapStatistics])
def test_one_feature_that_is_not_finite_is_found_though_no_weight_reads_it(kind: type, value: float) -> None:
    rows, weight = ROWS.copy(), WEIGHT.copy()
    rows[4321, 5] = value
    weight[:, 5] = 0
    with pytest.raises(NonFiniteError, match="features: 1 of 5000 rows hold NaN or infinity, the first is row 4321"):
        kind(rows, head=(weight, BIAS)).check(BOTH)


def test_logits_that_overflow_are_those_of_the_head() -> None:
    rows = np.full((3, 8), 1e300)
    rows[:2] = 1.0
    with pytest.raises(NonFiniteError, match="logits of the head: 1 of 3 rows"):
        TapQueries(rows, head=(1e10 * np.abs(WEIGHT), None)).check(BOTH)


@pytest.mark.parametrize("name", ["features", "logits"])
def test_given_logits_and_features_are_each_looked_at(name: str) -> None:
    given = {"features": torch.ones(4, 2), "logits": torch.ones(4, 3)}
    given[name][2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match=f"{name}: 1 of 4 rows"):
        TapQueries(given["features"], logits=given["logits"]).check(BOTH)
