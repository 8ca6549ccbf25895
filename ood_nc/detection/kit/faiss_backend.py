"""faiss, asked for only by what searches neighbours: its indexes, and which of its two wheels is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
_PQ_BLOCK = 4
"""Dimensions coded by one byte."""
_HNSW_LINKS, _HNSW_CONSTRUCTION = 32, 64
_HNSW_SEARCH = 4
"""Nodes a search keeps in view, in neighbours asked for: with fewer it does not get from one cluster to the next."""
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
    module: ModuleType = faiss
    return module


def index_width(kind: str, dim: int) -> int:
    """Width of the rows an index takes: product codes need a multiple of their block, to be filled up with zeros."""
    return -(-dim // _PQ_BLOCK) * _PQ_BLOCK if kind == "ivfpq" else dim


def new_index(kind: str, dim: int, count: int, seed: int = 0) -> Any:
    """An empty index of Euclidean distances, still to be trained where ``training_rows`` says so.

    ``flat``: exact. ``ivf``: about 4 sqrt(count) cells, of which a search looks into an eighth, at least 8. ``ivfpq``:
    the same, with rows as codes of one byte for four dimensions. ``hnsw``: a graph of 32 links.

    Args:
        kind: of ``INDEX_KINDS``.
        dim: width of the rows, see :func:`index_width`.
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
    cells = max(1, min(round(4 * count**0.5), count // _PER_CELL))
    if kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
    else:
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dim), dim, cells, dim // _PQ_BLOCK, 8)
        index.pq.cp.seed = seed
    index.cp.seed = seed
    index.nprobe = min(cells, max(8, cells // 8))
    return index


def training_rows(index: Any, kind: str) -> int:
    """How many rows are worth training the index on; 0 where it needs no training."""
    if kind not in ("ivf", "ivfpq"):
        return 0
    return max(_TRAINING_PER_CELL * int(index.nlist), _PQ_TRAINING if kind == "ivfpq" else 0)


def add_rows(index: Any, kind: str, rows: NDArray[np.float32]) -> None:
    """Add rows; a graph is built by one thread, since with several it comes out differently each time."""
    if kind == "hnsw":
        with _one_thread():
            index.add(rows)
    else:
        index.add(rows)


def search_index(index: Any, kind: str, queries: NDArray[np.float32], count: int) -> tuple[Any, Any]:
    """Squared distances and ids of the ``count`` nearest (B, count); id -1 where the index finds fewer."""
    if kind == "hnsw":
        index.hnsw.efSearch = _HNSW_SEARCH * count
    squares, ids = index.search(queries, count)
    return squares, ids


def on_gpu(index: Any, kind: str, count: int) -> Any:
    """The index on the first GPU, where faiss is built for GPUs, there is one, and it can give ``count`` neighbours."""
    faiss = load_faiss()
    if kind not in _GPU_KINDS or count > _GPU_LARGEST_COUNT or not hasattr(faiss, "StandardGpuResources"):
        return index
    return faiss.index_cpu_to_gpu(_gpu_resources(faiss), 0, index) if faiss.get_num_gpus() else index


def index_to_bytes(index: Any) -> NDArray[np.uint8]:
    """The index, wherever it is, as bytes."""
    faiss = load_faiss()
    if hasattr(faiss, "GpuIndex") and isinstance(index, faiss.GpuIndex):
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
def _gpu_resources(faiss: ModuleType) -> Any:
    # Each set aside more than a gigabyte of the GPU's memory, so all banks share one.
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
