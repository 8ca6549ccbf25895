from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ood_nc.detection.kit import faiss_backend, neighbors
from ood_nc.detection.kit.approximate import ApproximateNeighbors
from ood_nc.detection.kit.neighbors import ExactNeighbors
from ood_nc.errors import UserError
from tests.detection.kit.test_neighbors import kth


def clusters(rng, count, dim, spread=1.0):
    return 3 * np.random.default_rng(9).normal(size=(20, dim))[np.arange(count) % 20] + spread * rng.normal(
        size=(count, dim)
    )


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
def test_a_bank_in_half_precision_is_searched_as_its_values_are(kind):
    rng = np.random.default_rng(0)
    half, queries = (torch.from_numpy(clusters(rng, count, 16)).half() for count in (3000, 50))
    searches = []
    for bank in (half, half.float()):
        flat = kind == "flat"
        searches.append(
            ExactNeighbors(bank, True) if flat else ApproximateNeighbors(bank, True, kind, k=20, recall=0.8)
        )
    assert searches[0].bank.dtype == torch.float16
    assert torch.equal(*(search.kth_distance(queries, 20) for search in searches))
    if kind == "ivfpq":  # in which order, too, float32 leaves them
        ids = torch.from_numpy(rng.integers(0, 3000, (50, 100)))
        first, second = (search._nearest_in_float32(search.unit(queries), ids, 30) for search in searches)
        assert torch.equal(first.sort(dim=1).values, second.sort(dim=1).values)


@pytest.mark.parametrize(
    ("kind", "dim"),
    [("ivf", 32), ("hnsw", 32), ("ivfpq", 31), pytest.param("ivfpq", 32, marks=pytest.mark.slow)],
)
def test_recall_of_approximate_indexes(kind, dim):
    rng = np.random.default_rng(0)
    bank, queries = clusters(rng, 10_000, dim), clusters(rng, 100, dim)
    search = ApproximateNeighbors(torch.from_numpy(bank), normalize=False, kind=kind, k=50)
    assert search.count < 1500, "not by looking at everything"
    distances = np.stack([np.linalg.norm(bank - q, axis=1) for q in queries])
    wanted = distances.argsort(axis=1)[:, :50]
    ids = search._propose(torch.from_numpy(queries), 50)[1].numpy()
    recall = np.mean([np.isin(row, found).mean() for row, found in zip(wanted, ids, strict=True)])
    assert recall >= 0.97
    found = search.kth_distance(torch.from_numpy(queries), 50).numpy()
    exact = np.sort(distances, axis=1)[:, 49]
    # Overlooked neighbours can only make the k-th distance larger, and every distance is that of a row.
    assert (found >= exact * (1 - 1e-5)).all()
    assert (np.abs(distances / found[:, None] - 1).min(axis=1) < 1e-12).all()
    np.testing.assert_allclose(found, exact, rtol=0.03)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_an_index_that_finds_too_few_leaves_the_query_to_the_exact_search(kind, monkeypatch):
    rng = np.random.default_rng(0)
    bank, queries = clusters(rng, 2000, 8), clusters(rng, 60, 8)
    search = ApproximateNeighbors(torch.from_numpy(bank), normalize=False, kind=kind, k=40)
    expected = kth(bank, queries, 40)
    if kind != "hnsw":
        faiss_backend.set_effort(search.index, kind, 1)
        ids = search._propose(torch.from_numpy(queries), 40)[1]
        assert (ids < 0).any()
    inner = type(search)._propose

    def short(self, rows, k):
        # Every third query finds nothing, every third one neighbour too few, the rest just enough.
        squares, ids, bound = inner(self, rows, k)
        for start, first in ((0, 0), (1, k - 1), (2, k)):
            squares[start::3, first:], ids[start::3, first:] = torch.finfo(torch.float32).max, -1
        return squares, ids, bound

    monkeypatch.setattr(type(search), "_propose", short)
    found = search.kth_distance(torch.from_numpy(queries), 40).numpy()
    assert np.isfinite(found).all()
    for start in (0, 1):
        np.testing.assert_allclose(found[start::3], expected[start::3], rtol=1e-12)
    assert (found >= expected * (1 - 1e-5)).all()
    assert found.max() < 100


def test_approximate_distances_on_a_collapsed_bank_are_distances():
    # float32 cannot rank within a cluster, so any of its rows may be called the k-th; its distance is right.
    rng = np.random.default_rng(0)
    bank, queries = clusters(rng, 2000, 8, 1e-7) + 100, clusters(rng, 20, 8, 1e-7) + 100
    for kind in ("ivf", "hnsw"):
        found = ApproximateNeighbors(torch.from_numpy(bank), False, kind, k=10).kth_distance(
            torch.from_numpy(queries), 10
        )
        exact = kth(bank, queries, 10)
        assert (found.numpy() >= exact * (1 - 1e-9)).all()
        assert (found.numpy() < 1e-5).all()


def test_a_stored_index_of_another_bank():
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(rng.normal(size=(1200, 4)))
    stored = ApproximateNeighbors(bank, False, "ivf", k=5).stored()
    with pytest.raises(UserError, match="holds 1200 rows, the bank 1100"):
        ApproximateNeighbors(bank[:1100], False, "ivf", k=5, stored=stored)
    with pytest.raises(UserError, match="has 4 columns instead of 3: fit the detector again"):
        ApproximateNeighbors(bank[:, :3], False, "ivf", k=5, stored=stored)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_rows_whose_squares_float32_cannot_hold_are_found_like_others(kind, scale):
    # Clustering such rows as they are ends the process.
    rng = np.random.default_rng(0)
    bank, queries = clusters(rng, 2000, 8) * scale, clusters(rng, 40, 8) * scale
    search = ApproximateNeighbors(torch.from_numpy(bank), False, kind, k=10)
    found = search.kth_distance(torch.from_numpy(queries), 10).numpy()
    np.testing.assert_allclose(found, kth(bank / scale, queries / scale, 10) * scale, rtol=0.03)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_single_rows_of_such_a_size_are_refused(kind):
    bank = np.random.default_rng(0).normal(size=(2000, 8))
    bank[400] *= 1e30
    with pytest.raises(UserError, match=r"cannot hold features of \d\.\de\+30 beside ones of 1\.\de\+00: leave out"):
        ApproximateNeighbors(torch.from_numpy(bank), False, kind, k=10)
    assert ApproximateNeighbors(torch.from_numpy(bank), True, kind, k=10).kth_distance(torch.ones(1, 8), 10) < 2


def test_codes_find_the_neighbours_of_queries_that_are_far_from_all_rows():
    # All rows are nearly as far from these, so that the rounding of codes decides which are found.
    rng = np.random.default_rng(0)
    bank, queries = clusters(rng, 12_000, 64, 0.5), 3 * rng.normal(size=(60, 64))
    search = ApproximateNeighbors(torch.from_numpy(bank.astype(np.float32)), True, "ivfpq", k=50)
    faiss_backend.set_effort(search.index, "ivfpq", faiss_backend.cells_of(search.index).nlist)
    bank, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, queries))
    ids = search.candidates(torch.from_numpy(queries), 50)[0].numpy()
    wanted = cdist(queries, bank).argsort(axis=1)[:, :50]
    assert np.mean([np.isin(row, found).mean() for row, found in zip(wanted, ids, strict=True)]) > 0.95


@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_tuned_on_the_bank_holds_for_queries_of_other_classes(normalize):
    # Means and members share a spectrum that falls, as features do, and queries are far from all rows.
    rng, dim, k = np.random.default_rng(0), 128, 50
    spectrum = np.arange(1, dim + 1) ** -0.6
    means = rng.normal(size=(800, dim)) * spectrum

    def members(classes, count):
        spread = 0.3 * spectrum * rng.normal(size=(count, dim))
        return torch.from_numpy((means[classes][np.arange(count) % 400] + spread).astype(np.float32))

    bank, queries = members(slice(400), 12_000), members(slice(400, 800), 120)
    search = ApproximateNeighbors(bank, normalize, "ivfpq", k=k, recall=0.99)
    wanted = cdist(search.unit(queries), search.unit(bank)).argsort(axis=1)[:, :k]
    ids = search.candidates(search.unit(queries), k)[0].numpy()
    assert np.mean([np.isin(row, found).mean() for row, found in zip(wanted, ids, strict=True)]) > 0.985
    assert search.count <= 8 * (k + neighbors.MARGIN), "not by looking at many more"


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_the_effort_is_the_least_that_has_the_wanted_recall(kind, normalize):
    rng = np.random.default_rng(0)
    bank, queries = (clusters(rng, count, 16).astype(np.float32) for count in (12_000, 200))
    compared = [rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows for rows in (bank, queries)]
    exact = np.sort(cdist(compared[1].astype(np.float64), compared[0].astype(np.float64)), axis=1)
    efforts = []
    for recall in (0.3, 0.9, 0.999):
        search = ApproximateNeighbors(torch.from_numpy(bank), normalize, kind, k=20, recall=recall)
        index = search.index
        effort = index.hnsw.efSearch if kind == "hnsw" else faiss_backend.cells_of(index).nprobe
        efforts.append((effort, search.count))
        within = search.kth_distance(torch.from_numpy(queries), 20).numpy()[:, None]
        # The k-th of those found stands at the place in the true order that their recall gives it.
        found = 20 / np.maximum(20, (exact <= within * (1 + 1e-6)).sum(axis=1))
        assert found.mean() >= recall - 0.02
    assert efforts == sorted(efforts)


def test_a_recall_that_cannot_be_had_is_said():
    # In a cluster float32 tells no row from another.
    bank = torch.from_numpy(clusters(np.random.default_rng(0), 2000, 8, 1e-7) + 100)
    with pytest.warns(UserWarning, match=r"Index 'ivf' finds 0\.\d+ of the neighbours of held-out queries at most"):
        ApproximateNeighbors(bank, False, "ivf", k=10)


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_float32_leaves_the_nearest_of_the_candidates(scale):
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(clusters(rng, 10_000, 8).astype(np.float32))
    bank[7] = 0
    for normalize in (False, True):
        search = ApproximateNeighbors(bank, normalize, "ivf", k=5)
        search.bank = bank * scale
        queries = search.unit(search.bank[::500])
        ids = torch.from_numpy(rng.permutation(10_000)[: 20 * 300].reshape(20, 300))
        ids[0, 0], ids[1, 3:] = 7, -1
        found = search._nearest_in_float32(queries, ids, 10)
        if scale > 1 and not normalize:
            assert torch.equal(found, ids), "products beyond float32 rank nothing"
            continue
        distances = (queries[:, None] - search.unit(search.bank[ids.clamp_min(0)].flatten(0, 1)).view(20, 300, 8)).norm(
            dim=2
        )
        distances[ids < 0] = torch.inf
        kept = torch.tensor(
            [[one in row for one in all_] for row, all_ in zip(found.tolist(), ids.tolist(), strict=True)]
        )
        assert (distances.masked_fill(~kept, -1).amax(dim=1) <= distances.kthvalue(10, dim=1).values * (1 + 1e-5)).all()
