from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ood_nc.detection.kit import neighbors
from ood_nc.detection.kit.approximate import ApproximateNeighbors
from ood_nc.detection.kit.neighbors import ExactNeighbors, kth_distance
from ood_nc.errors import UserError


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


def clusters(rng, count, dim, spread=1.0):
    return 3 * np.random.default_rng(9).normal(size=(20, dim))[np.arange(count) % 20] + spread * rng.normal(
        size=(count, dim)
    )


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
        search.index.nprobe = 1
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
    search.index.nprobe = search.index.nlist
    bank, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, queries))
    ids = search.candidates(torch.from_numpy(queries), 50)[0].numpy()
    wanted = cdist(queries, bank).argsort(axis=1)[:, :50]
    assert np.mean([np.isin(row, found).mean() for row, found in zip(wanted, ids, strict=True)]) > 0.95


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
        efforts.append((search.index.hnsw.efSearch if kind == "hnsw" else search.index.nprobe, search.count))
        within = search.kth_distance(torch.from_numpy(queries), 20).numpy()[:, None]
        # The k-th of those found stands at the place in the true order that their recall gives it.
        found = 20 / np.maximum(20, (exact <= within * (1 + 1e-6)).sum(axis=1))
        assert found.mean() >= recall - 0.02
    assert efforts == sorted(efforts)


def test_a_recall_that_cannot_be_had_is_said():
    bank = torch.from_numpy(np.random.default_rng(0).normal(size=(10_000, 256)).astype(np.float32))
    with pytest.warns(UserWarning, match=r"Index 'ivfpq' finds 0\.\d+ of the neighbours of held-out queries at most"):
        ApproximateNeighbors(bank, False, "ivfpq", k=50, recall=0.9999)


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
