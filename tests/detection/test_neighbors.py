from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import _neighbors
from ood_nc.detection._neighbors import ExactNeighbors


def kth(bank, queries, k):
    return np.array([np.sort(np.linalg.norm(bank - q, axis=1))[k - 1] for q in queries])


@pytest.mark.parametrize("dim", [2, 16, 128, 2048])
@pytest.mark.parametrize("shape", ["normal", "positive", "heavy tails"])
def test_the_error_bound_holds(dim, shape):
    rng = np.random.default_rng(dim)
    draw = {"normal": rng.standard_normal, "positive": rng.random, "heavy tails": lambda s: rng.standard_t(2, s)}[shape]
    bank, queries = (torch.from_numpy(draw((n, dim)) + 5) for n in (400, 60))
    # Half of the queries are copies of bank rows, where everything cancels.
    queries[:30] = bank[:30]
    search = ExactNeighbors(bank, normalize=False)
    centered = search.unit(queries) - search.center
    squares, ids = search.index.search(centered.float().numpy(), 400)
    exact = ((queries[:, None] - bank[torch.from_numpy(ids)]) ** 2).sum(dim=2)
    error = (torch.from_numpy(squares).double() - exact).abs().amax(dim=1)
    assert (error <= search.error_bound(centered, search.largest_square, torch.float32)).all()
    ids, outside = search._search_float64(queries, torch.arange(400), search.center, 100)
    slow = ((queries[:, None].numpy().astype(np.longdouble) - bank.numpy()) ** 2).sum(axis=2)
    np.put_along_axis(slow, ids.numpy(), np.inf, axis=1)
    assert (outside.numpy() <= slow.min(axis=1)).all()


@pytest.mark.parametrize("trusted", [0.0, 1e-5])
@pytest.mark.parametrize("batch", [7, 4096])
def test_every_path_gives_the_same(trusted, batch, monkeypatch):
    # trusted = 0 ranks every candidate again in float64; a margin of 0 leaves nothing to prove it with.
    monkeypatch.setattr(_neighbors, "_TRUSTED", trusted)
    monkeypatch.setattr(_neighbors, "_BATCH", batch)
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(300, 8)), rng.normal(size=(40, 8))
    expected = kth(bank, queries, 5)
    for margin in (0, 32):
        monkeypatch.setattr(_neighbors, "_MARGIN", margin)
        for labels in (None, torch.arange(300) % 3, torch.arange(300) // 4):
            search = ExactNeighbors(torch.from_numpy(bank), normalize=False, labels=labels)
            np.testing.assert_allclose(search.kth_distance(torch.from_numpy(queries), 5), expected, rtol=1e-5)
        for path in (search._kth_by_float64, search._kth_by_differences):
            np.testing.assert_allclose(path(torch.from_numpy(queries), 5), expected)


@pytest.mark.parametrize("labelled", [None, "right", "shuffled"])
@pytest.mark.parametrize("spread", [1e-4, 1e-7, 1e-9, 1e-11])
def test_two_scales_in_one_bank(spread, labelled):
    # Tight clusters far apart, each with more rows than there are candidates: one point to float32, below 1e-7 also to
    # products in float64.
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 8))
    bank = centers[np.arange(600) % 4] + spread * rng.normal(size=(600, 8))
    queries = centers[np.arange(40) % 4] + spread * rng.normal(size=(40, 8))
    # Labels may speed the search up, wrong ones too, and must not change it.
    right = torch.arange(600) % 4
    labels = {None: None, "right": right, "shuffled": right[torch.from_numpy(rng.permutation(600))]}[labelled]
    search = ExactNeighbors(torch.from_numpy(bank), normalize=False, labels=labels)
    found = search.kth_distance(torch.from_numpy(queries), 10)
    np.testing.assert_allclose(found, kth(bank, queries, 10), rtol=1e-5)


def test_each_step_is_needed(monkeypatch):
    # Without the proof in float64 the last case above goes wrong, so the test above can fail.
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(1, 8)) + 1e-11 * rng.normal(size=(600, 8))
    bank[0] += 10
    expected = kth(bank, bank[:20], 10)
    monkeypatch.setattr(ExactNeighbors, "error_bound", lambda self, rows, *rest: torch.zeros(len(rows)).double())
    found = ExactNeighbors(torch.from_numpy(bank), normalize=False).kth_distance(torch.from_numpy(bank[:20]), 10)
    assert np.abs(found.numpy() / expected - 1).max() > 1e-3


def test_a_collapsed_bank_is_searched_by_class(monkeypatch):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 8))
    bank = centers[np.arange(600) % 4] + 1e-6 * rng.normal(size=(600, 8))
    queries = np.concatenate([centers[np.arange(40) % 4] + 1e-6 * rng.normal(size=(40, 8)), rng.normal(size=(9, 8))])
    expected = kth(bank, queries, 10)
    monkeypatch.setattr(ExactNeighbors, "_kth_by_float64", None)
    search = ExactNeighbors(torch.from_numpy(bank), normalize=False, labels=torch.arange(600) % 4)
    np.testing.assert_allclose(search.kth_distance(torch.from_numpy(queries), 10), expected, rtol=1e-5)
