"""faiss, asked for only by what searches neighbours: its indexes, and which of its two wheels is installed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_nc.errors import MissingPackageError, UserError

SMALLEST_BANK = {"flat": 1, "ivf": 1000, "hnsw": 1000, "ivfpq": 10_000}
"""Rows from which on a kind of index is worth its recall, and its clustering has enough to learn from."""
INDEX_KINDS = tuple(SMALLEST_BANK)
_PER_CELL = 39
"""faiss asks for at least this many rows for each centroid it learns."""
_TRAINING_PER_CELL = 64
_PQ_TRAINING = 16_384
_PQ_BLOCK = 2
"""Dimensions coded by four bits: with four of them, neighbours of OOD queries, all nearly as far, are overlooked."""
_LEAST_CELLS = 16
_HNSW_LINKS, _HNSW_CONSTRUCTION = 32, 64
_GPU_KINDS = ("flat", "ivf")
_GPU_LARGEST_COUNT = 2048
_WHEELS = ("faiss-cpu", "faiss-gpu")
_INSTALL = "pip install faiss-cpu (or faiss-gpu where there is a GPU, not both)"


def faiss_variant() -> str:
    """Which wheel provides faiss: ``"faiss-cpu"``, ``"faiss-gpu"`` (also its CUDA-named builds), or ``"other"``.

    Raises:
        UserError: both are installed. They hold the same module, and the one installed last has overwritten the other.
        MissingPackageError: there is no faiss.

    Example:
        >>> faiss_variant() in ("faiss-cpu", "faiss-gpu", "other")
        True
    """
    found = [name for name in (*_WHEELS, "faiss-gpu-cu11", "faiss-gpu-cu12") if _installed(name)]
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(found)} are both installed and overwrite each other: pip uninstall -y {' '.join(found)}, "
            f"then install one of them."
        )
    if found:
        return "faiss-gpu" if found[0].startswith("faiss-gpu") else found[0]
    load_faiss()
    return "other"


def load_faiss() -> ModuleType:
    """Import faiss.

    Raises:
        MissingPackageError: it is not installed; one line that says how to.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(f"Nearest neighbours need faiss: {_INSTALL}.") from error
    return faiss


def new_index(kind: str, dim: int, count: int, seed: int = 0) -> Any:
    """An empty index of Euclidean distances, still to be trained where ``training_rows`` says so.

    ``flat``: exact. ``ivf``: about 4 sqrt(count) cells. ``ivfpq``: about sqrt(count) cells of codes, four bits for
    two dimensions, whose distances a search looks up in the registers (fast scan, Andre et al., VLDB 2015). Rows are
    rotated at random before they are coded: else both their rounding and the offset of a far query are large along the
    same few dimensions, and with them the error of its distances. ``hnsw``: a graph of 32 links. How much of it a
    search looks into, `set_effort` says.

    Args:
        kind: of ``INDEX_KINDS``.
        dim: width of the rows.
        count: rows it will hold.
        seed: of the clustering.

    Raises:
        MissingPackageError: faiss is not installed.
    """
    faiss = load_faiss()
    if kind == "flat":
        return faiss.IndexFlatL2(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS)
        index.hnsw.efConstruction = _HNSW_CONSTRUCTION
        return index
    cells = max(1, min(round((4 if kind == "ivf" else 1) * count**0.5), count // _PER_CELL))
    if kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
        index.cp.seed = seed
        return index
    blocks = -(-dim // _PQ_BLOCK)
    width = blocks * _PQ_BLOCK
    codes = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(width), width, cells, blocks, 4)
    codes.pq.cp.seed = codes.cp.seed = seed
    codes.cp.niter = 10
    rotation = faiss.RandomRotationMatrix(dim, width)
    rotation.init(seed)
    return faiss.IndexPreTransform(rotation, codes)


def cells_of(index: Any) -> Any:
    """The part of an ``ivf`` or ``ivfpq`` index that has ``nlist`` cells and looks into ``nprobe`` of them."""
    return load_faiss().extract_index_ivf(index)


def efforts(index: Any, kind: str, count: int) -> list[int]:
    """How much of an index a search for ``count`` neighbours may look into, from the least on: cells, or nodes kept in
    view (with few of these it does not get from one cluster to the next)."""
    if kind == "hnsw":
        return [factor * count for factor in (1, 2, 4, 8, 16, 32)]
    cells = int(cells_of(index).nlist)
    return [*itertools.takewhile(lambda few: few < cells, (_LEAST_CELLS << step for step in range(30))), cells]


def set_effort(index: Any, kind: str, effort: int) -> None:
    """Have searches look into as much, one of :func:`efforts`; it is stored with the index."""
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    else:
        cells_of(index).nprobe = effort


def training_rows(index: Any, kind: str) -> int:
    """How many rows are worth training the index on; 0 where it needs no training."""
    if kind not in ("ivf", "ivfpq"):
        return 0
    return max(_TRAINING_PER_CELL * int(cells_of(index).nlist), _PQ_TRAINING if kind == "ivfpq" else 0)


def add_rows(index: Any, kind: str, rows: NDArray[np.float32]) -> None:
    """Add rows; a graph is built by one thread, since with several it comes out differently each time."""
    with _one_thread() if kind == "hnsw" else nullcontext():
        index.add(rows)


def nearest(
    queries: NDArray[np.float32], rows: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distances and ids of the ``count`` nearest rows (B, count), as a flat index of the rows gives them."""
    found: tuple[NDArray[np.float32], NDArray[np.int64]] = load_faiss().knn(queries, rows, count)
    return found


def products(rows: NDArray[np.float32], queries: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Inner products of each query (B, d) with its rows ``ids`` (B, c), which are read where they are, (B, c)."""
    faiss = load_faiss()
    found = np.empty(ids.shape, dtype=np.float32)
    arrays = [faiss.swig_ptr(array) for array in (found, queries, rows, ids)]
    faiss.fvec_inner_products_by_idx(*arrays, rows.shape[1], *ids.shape)
    return found


def count_gpus() -> int:
    """How many GPUs faiss is built for and finds."""
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def on_gpu(index: Any, kind: str, count: int) -> Any:
    """The index on the GPUs, its rows dealt out to all of them, where faiss is built for GPUs, there are some, and they
    can give ``count`` neighbours."""
    faiss = load_faiss()
    gpus = count_gpus()
    if not gpus or kind not in _GPU_KINDS or count > _GPU_LARGEST_COUNT:
        return index
    if gpus == 1:
        return faiss.index_cpu_to_gpu(_gpu_resources(faiss, 0), 0, index)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    resources = [_gpu_resources(faiss, gpu) for gpu in range(gpus)]
    return faiss.index_cpu_to_gpu_multiple_py(resources, index, options, list(range(gpus)))


def index_to_bytes(index: Any) -> NDArray[np.uint8]:
    """The index, wherever it is, as bytes."""
    faiss = load_faiss()
    # On this side shards are only ever those of an index on several GPUs.
    if hasattr(faiss, "GpuIndex") and isinstance(index, (faiss.GpuIndex, faiss.IndexShards)):
        index = faiss.index_gpu_to_cpu(index)
    array: NDArray[np.uint8] = faiss.serialize_index(index)
    return array


def index_from_bytes(array: NDArray[np.uint8]) -> Any:
    """The index that :func:`index_to_bytes` gave.

    Raises:
        UserError: the bytes are no index.
    """
    faiss = load_faiss()
    try:
        return faiss.deserialize_index(np.ascontiguousarray(array))
    except RuntimeError as error:
        raise UserError("The stored index of the bank cannot be read: fit the detector again.") from error


@cache
def _gpu_resources(faiss: ModuleType, gpu: int) -> Any:
    # Each sets aside more than a gigabyte of its GPU's memory, so all banks share one.
    return faiss.StandardGpuResources()


@contextmanager
def _one_thread() -> Iterator[None]:
    faiss = load_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
