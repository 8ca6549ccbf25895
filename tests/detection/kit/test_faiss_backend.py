from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import faiss
import numpy as np
import pytest

from ood_nc.detection import create_detector, faiss_variant
from ood_nc.detection.kit import faiss_backend
from ood_nc.errors import MissingPackageError, UserError


def installed(monkeypatch, *names):
    def version(name):
        if name not in names:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(faiss_backend, "version", version)


def test_which_wheel(monkeypatch):
    for name, variant in (("faiss-cpu", "faiss-cpu"), ("faiss-gpu", "faiss-gpu"), ("faiss-gpu-cu12", "faiss-gpu")):
        installed(monkeypatch, name)
        assert faiss_variant() == variant
    installed(monkeypatch)
    assert faiss_variant() == "other"


def test_both_wheels(monkeypatch):
    installed(monkeypatch, "faiss-cpu", "faiss-gpu")
    with pytest.raises(UserError, match="pip uninstall -y faiss-cpu faiss-gpu") as caught:
        faiss_variant()
    assert "\n" not in str(caught.value)


def test_no_wheel(monkeypatch):
    installed(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingPackageError, match="faiss-cpu"):
        faiss_variant()


class OnGpu:
    """An index as faiss has it on a GPU: it searches and refuses more than 2,048 neighbours."""

    def __init__(self, resources, device, index):
        assert (type(resources), device) == (Resources, 0)
        self.inner = index

    @property
    def ntotal(self):
        return self.inner.ntotal

    def search(self, queries, k):
        assert k <= 2048
        return self.inner.search(queries, k)


class Resources:
    made = 0

    def __init__(self):
        Resources.made += 1


@pytest.fixture
def gpu_faiss(monkeypatch):
    """faiss as its GPU wheel presents itself, with one GPU."""
    module = ModuleType("faiss")
    module.__dict__.update(vars(faiss))
    module.get_num_gpus = lambda: 1
    module.StandardGpuResources = Resources
    module.GpuIndex = OnGpu
    module.index_cpu_to_gpu = OnGpu
    module.index_gpu_to_cpu = lambda index: index.inner
    monkeypatch.setitem(sys.modules, "faiss", module)
    monkeypatch.setattr(Resources, "made", 0)
    return module


@pytest.mark.parametrize(("index", "moves"), [("flat", True), ("ivf", True), ("hnsw", False)])
def test_searches_on_a_gpu_where_there_is_one(index, moves, gpu_faiss, monkeypatch):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(2500, 8)).astype(np.float32), rng.normal(size=(50, 8))
    detector = create_detector("knn", k=5, index=index).fit(bank)
    found = detector.score(queries)
    assert isinstance(detector._banks[0].index, OnGpu) == moves
    state = detector.state_dict()
    # The file is for machines with and without a GPU.
    for module in (gpu_faiss, faiss):
        monkeypatch.setitem(sys.modules, "faiss", module)
        loaded = create_detector("knn").load_state_dict(state)
        assert loaded.score(queries).tolist() == found.tolist()
        assert isinstance(loaded._banks[0].index, OnGpu) == (moves and module is gpu_faiss)
    np.testing.assert_array_equal(create_detector("knn", k=5, index=index).fit(bank).score(queries), found)


def test_several_gpus_share_the_rows(gpu_faiss, monkeypatch):
    class Options:
        shard = False

    def deal_out(resources, index, options, gpus):
        assert [type(one) for one in resources] == [Resources] * 3 and options.shard and gpus == [0, 1, 2]
        shards = faiss.IndexShards(index.d, False, True)
        for rows in np.array_split(index.reconstruct_n(0, index.ntotal), len(gpus)):
            parts.append(faiss.IndexFlatL2(index.d))
            parts[-1].add(rows)
            shards.add_shard(parts[-1])
        wholes.append(index)
        return shards

    parts, wholes = [], []
    gpu_faiss.get_num_gpus = lambda: 3
    gpu_faiss.GpuMultipleClonerOptions = Options
    gpu_faiss.index_cpu_to_gpu_multiple_py = deal_out
    gpu_faiss.index_gpu_to_cpu = lambda index: wholes[0]
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(2500, 8)).astype(np.float32), rng.normal(size=(50, 8))
    detector = create_detector("knn", k=5).fit(bank)
    index = detector._banks[0].index
    assert isinstance(index, faiss.IndexShards) and index.ntotal == 2500 and Resources.made == 3
    found = detector.score(queries)
    assert faiss_backend.index_from_bytes(faiss_backend.index_to_bytes(index)).ntotal == 2500
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    np.testing.assert_allclose(found, create_detector("knn", k=5).fit(bank).score(queries), rtol=1e-12)


def test_too_many_neighbours_for_a_gpu(gpu_faiss):
    rows = np.random.default_rng(0).normal(size=(2500, 4))
    detector = create_detector("knn", k=2040).fit(rows)
    assert not isinstance(detector._banks[0].index, OnGpu)
    assert detector.score(rows[:3]).shape == (3,)


def test_banks_share_the_memory_set_aside_on_the_gpu(gpu_faiss):
    rows = np.random.default_rng(0).normal(size=(100, 4))
    detector = create_detector("knn", k=2, per_class=True).fit(rows, np.arange(100) % 5)
    assert sum(isinstance(bank.index, OnGpu) for bank in detector._banks) == 5
    assert Resources.made == 1


def test_no_gpu_in_a_gpu_wheel(gpu_faiss):
    gpu_faiss.get_num_gpus = lambda: 0
    rows = np.eye(4)
    assert not isinstance(create_detector("knn").fit(rows)._banks[0].index, OnGpu)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "ivfpq"])
def test_bytes_and_back(kind):
    rows = np.random.default_rng(0).normal(size=(1200, 8)).astype(np.float32)
    index = faiss_backend.new_index(kind, 8, 1200)
    if faiss_backend.training_rows(index, kind):
        index.train(rows)
    faiss_backend.add_rows(index, kind, rows)
    back = faiss_backend.index_from_bytes(faiss_backend.index_to_bytes(index))
    for first, second in zip(index.search(rows[:20], 9), back.search(rows[:20], 9), strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(UserError, match="cannot be read: fit the detector again"):
        faiss_backend.index_from_bytes(np.arange(100, dtype=np.uint8))


def test_a_graph_is_built_by_one_thread_and_threads_come_back():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
        index = faiss_backend.new_index("hnsw", 4, 500)
        faiss_backend.add_rows(index, "hnsw", rows)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(threads)
