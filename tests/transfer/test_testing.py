"""The conformance check passes ours, and each way of breaking the protocol fails it."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from ood_nc.arrays import as_tensor
from ood_nc.conformance import CheckError
from ood_nc.transfer import PROBES, check_probe, check_task, nearest_mean_probe, read_test


@pytest.mark.parametrize("name", list(PROBES))
def test_ours(name):
    check_probe(name)


@pytest.mark.parametrize("name", [name for name in PROBES if not name.startswith("few_shot_")])
def test_autocast_of_the_caller_changes_nothing(name):
    features = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    labels = (features[:, :4] + 0.5 * features[:, 4:8]).argmax(dim=1)
    task = (features[:200], labels[:200], features[200:], labels[200:])
    expected = PROBES[name](*task, seed=0).predictions
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PROBES[name](*task, seed=0).predictions, expected)


def nearest_sample(train_features, train_labels, test_features, test_labels, *, seed=0):
    """The class of the nearest training sample."""
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    distances = torch.cdist(task.test_features.double(), task.train_features.double())
    return read_test(task, task.train_labels[distances.argmin(dim=1)], start)


def test_a_good_one():
    check_probe(nearest_sample)


def changed(**changes):
    def probe(*arguments, seed):
        """."""
        return dataclasses.replace(nearest_mean_probe(*arguments), **changes)

    return probe


def wrap(action):
    def probe(*arguments, seed):
        """."""
        return action(*arguments)

    return probe


def noisy(*arguments):
    torch.rand(1)
    return nearest_mean_probe(*arguments)


def greedy(features, labels, queries, wanted):
    as_tensor(features).mul_(2)
    return nearest_mean_probe(features, labels, queries, wanted)


def guessing(features, labels, queries, wanted):
    task = check_task(features, labels, queries, wanted)
    return read_test(task, torch.zeros_like(task.test_labels), time.perf_counter())


def unscaled(features, labels, queries, wanted):
    return nearest_mean_probe(as_tensor(features) + 1, labels, as_tensor(queries) + 1, wanted)


def unchecked(features, labels, queries, wanted):
    if len(labels) != len(features):
        raise KeyError("labels")
    return nearest_mean_probe(features, labels, queries, wanted)


def trusting(features, labels, queries, wanted):
    return nearest_mean_probe(as_tensor(features).nan_to_num(), labels, queries, wanted)


@pytest.mark.parametrize(
    ("probe", "seen"),
    [
        (changed(accuracy=1.5), "accuracy or n"),
        (changed(low=1.0, accuracy=1.0, correct=torch.ones(30, dtype=torch.bool), high=0.9), "without its accuracy"),
        (changed(correct=torch.zeros(30, dtype=torch.bool)), "`correct` that is not"),
        (changed(predictions=torch.ones(30, dtype=torch.long)), "class that the training split lacks"),
        (changed(predictions=torch.zeros(2, 30, dtype=torch.long)), r"predicts \(2, 30\)"),
        (wrap(lambda *arguments: 0.5), "returns a float"),
        (wrap(noisy), "global random state"),
        (wrap(greedy), "changes its inputs"),
        (wrap(guessing), "is right on .* of an easy problem"),
        (wrap(unscaled), "scaled by 1e-20"),
        (wrap(unchecked), "raises KeyError for labels that do not fit"),
        (wrap(trusting), "takes features with NaN"),
        (lambda *arguments, seed: nearest_mean_probe(*arguments), "has no docstring"),
    ],
)
def test_broken(probe, seen):
    with pytest.raises(CheckError, match=f"^Probe '.*' .*{seen}"):
        check_probe(probe)
