from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection.kit import neighbors
from ood_nc.detection.kit.neighbors import ExactNeighbors, kth_distance


def kth(bank, queries, k):
    return np.array([np.sort(np.linalg.norm(bank - q, axis=1))[k - 1] for q in queries])


@pytest.mark.parametrize("dim", [2, 16, 128, pytest.param(2048, marks=pytest.mark.slow)])
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
    monkeypatch.setattr(neighbors, "TRUSTED", trusted)
    monkeypatch.setattr(neighbors, "_BATCH", batch)
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(300, 8)), rng.normal(size=(40, 8))
    expected = kth(bank, queries, 5)
    for margin in (0, 32):
        monkeypatch.setattr(neighbors, "MARGIN", margin)
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


@pytest.mark.parametrize("count", [30, 400])
@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-20, 1e-16, 1e16, 1e25, 1e60])
def test_sizes_beyond_float32(scale, count):
    # Squares over- or underflow in float32; faiss then fills places with id -1, or finds all distances 0.
    rng = np.random.default_rng(0)
    bank, queries = scale * rng.normal(size=(count, 8)), scale * rng.normal(size=(20, 8))
    for labels in (None, torch.arange(count) % 3):
        search = ExactNeighbors(torch.from_numpy(bank), normalize=False, labels=labels)
        np.testing.assert_allclose(search.kth_distance(torch.from_numpy(queries), 5), kth(bank, queries, 5), rtol=1e-5)


def test_queries_of_another_size_than_the_bank():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(400, 8))
    queries = rng.normal(size=(9, 8)) * 10.0 ** np.arange(0, 90, 10)[:, None]
    found = ExactNeighbors(torch.from_numpy(bank), normalize=False).kth_distance(torch.from_numpy(queries), 5)
    np.testing.assert_allclose(found, kth(bank, queries, 5), rtol=1e-5)


def test_copies_beyond_the_candidates_need_no_search(monkeypatch):
    # Nothing is closer than 0, so no proof is needed that others are not.
    bank = np.concatenate([np.zeros((300, 4)), np.random.default_rng(0).normal(size=(300, 4))])
    monkeypatch.setattr(ExactNeighbors, "_kth_by_float64", None)
    found = ExactNeighbors(torch.from_numpy(bank), normalize=False).kth_distance(torch.zeros(5, 4), 50)
    assert found.tolist() == [0.0] * 5


def test_smallest_over_banks():
    rng = np.random.default_rng(0)
    banks, queries = [rng.normal(size=(n, 4)) for n in (30, 7, 200)], rng.normal(size=(40, 4))
    expected = np.min([kth(bank, queries, 5) for bank in banks], axis=0)
    searches = [ExactNeighbors(torch.from_numpy(bank), normalize=False) for bank in banks]
    np.testing.assert_allclose(kth_distance(searches, torch.from_numpy(queries), 5), expected, rtol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_bank_too_large_for_an_index_is_read_in_blocks(dtype, normalize, monkeypatch):
    rng = np.random.default_rng(0)
    # Queries of all sizes, some so large that float32 has no squares for them, and copies of rows.
    bank = torch.from_numpy(rng.normal(size=(700, 8))).to(dtype)
    queries = torch.cat([torch.from_numpy(rng.normal(size=(40, 8))), bank[:9].double(), 1e25 * bank[:3].double()])
    held = ExactNeighbors(bank, normalize)
    monkeypatch.setattr(neighbors, "HELD", 0)
    for rows in (300, 90, 30):  # fewer, in the end, than candidates
        monkeypatch.setattr(neighbors, "_SCANNED", rows)
        read = ExactNeighbors(bank, normalize, k=20)
        assert held.index is not None and read.index is None
        assert torch.equal(read.kth_distance(queries, 20), held.kth_distance(queries, 20))
        found, wanted = (search._propose(search.unit(queries[:40]), 20) for search in (read, held))
        assert torch.equal(found[1], wanted[1])
    rows, wanted = (
        part.double() / (part.double().norm(dim=1, keepdim=True) if normalize else 1) for part in (bank, queries)
    )
    np.testing.assert_allclose(read.kth_distance(queries, 20), kth(rows.numpy(), wanted.numpy(), 20), rtol=1e-5)
