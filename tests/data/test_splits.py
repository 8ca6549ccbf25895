from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.model_selection import train_test_split

from ood_nc.data import limit_per_class, limit_total, open_dataset, stratified_split
from ood_nc.errors import UserError

from .test_dataset import make


@given(
    arrays.arrays(np.int64, st.integers(2, 60), elements=st.integers(-1, 5)),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_split_is_a_stratified_partition(targets, fraction, seed):
    try:
        first, second = stratified_split(targets, fraction, seed)
    except UserError:
        assert np.unique(targets, return_counts=True)[1].max() == 1
        return
    assert sorted([*first, *second]) == list(range(len(targets)))
    assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()
    for value in np.unique(targets):
        n, held = (targets == value).sum(), (targets[second] == value).sum()
        assert held < n
        assert held <= np.ceil(n * fraction - 1e-9) or held == n - 1
    again = stratified_split(targets, fraction, seed)
    assert np.array_equal(again[1], second)


@pytest.mark.parametrize("n", [5878, 30000, 1797])
def test_sizes_are_those_of_scikit_learn(n):
    targets = np.random.default_rng(0).integers(0, 64, n)
    _, expected = train_test_split(np.arange(n), test_size=0.2, stratify=targets, random_state=0)
    _, second = stratified_split(targets, 0.2, 0)
    assert len(second) == len(expected)
    difference = np.bincount(targets[second], minlength=64) - np.bincount(targets[expected], minlength=64)
    assert np.abs(difference).max() <= 1


def test_seed_matters():
    targets = np.zeros(100, dtype=np.int64)
    assert not np.array_equal(stratified_split(targets, 0.5, 0)[1], stratified_split(targets, 0.5, 1)[1])


@pytest.mark.parametrize(
    ("targets", "fraction", "message"),
    [([0, 1], 1.0, "between 0 and 1"), ([0], 0.5, "1 sample"), ([0, 1, 2], 0.5, "no class has two images")],
)
def test_impossible_splits(targets, fraction, message):
    with pytest.raises(UserError, match=message):
        stratified_split(np.array(targets), fraction, 0)


def test_limits_are_nested_and_balanced():
    dataset = make([0] * 20 + [1] * 3 + [2] * 10)
    two, five = (limit_per_class(dataset, limit) for limit in (2, 5))
    assert np.bincount(two.targets).tolist() == [2, 2, 2]
    assert np.bincount(five.targets).tolist() == [5, 3, 5]
    assert set(two.ids) < set(five.ids)
    assert two.ids != limit_per_class(dataset, 2, seed=1).ids
    ten, fifteen = (limit_total(dataset, limit) for limit in (10, 15))
    assert np.bincount(ten.targets).tolist() in ([4, 3, 3], [3, 3, 4])
    assert set(ten.ids) < set(fifteen.ids) and len(fifteen) == 15
    assert limit_total(dataset, 100) is dataset


def test_limit_of_a_class_does_not_depend_on_the_others():
    dataset = make([0] * 20 + [1] * 20)
    alone = limit_per_class(dataset.subset(range(20)), 3)
    assert alone.ids == limit_per_class(dataset, 3).ids[:3]


def test_open_dataset_applies_the_limit():
    dataset = open_dataset("bundled/digits-near", limit=4, seed=1)
    assert np.bincount(dataset.targets).tolist() == [4, 4]
    assert dataset.ids == limit_per_class(open_dataset("bundled/digits-near"), 4, seed=1).ids
