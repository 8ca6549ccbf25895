"""What approximate neighbours find, and what they cost beside the flat search, on a bank of a million rows.

    python scripts/benchmark_neighbors.py --work DIR [--rows 1000000] [--dim 512] [--classes 1000] [--index ivfpq]

The bank is synthetic: class means spread along common directions with a spectrum that falls as i^-.6, each class along
64 directions of its own with such a spectrum too, and there is noise in all directions; rows are normalised. Half of
the queries are new samples of these classes, half are of classes that the bank lacks. The index is kept in DIR and read
from there when the script runs again. Prints recall and, in processor time of alternating runs, the search as a share
of faiss's own flat search.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from ood_nc.detection.kit import faiss_backend
from ood_nc.detection.kit.approximate import ApproximateNeighbors

_DIRECTIONS = 64
_SPREAD, _NOISE = 1.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the index")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--index", default="ivfpq")
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    k, half = arguments.k, arguments.queries // 2
    bank = mixture(arguments.rows, arguments.dim, range(arguments.classes))
    others = range(arguments.classes, arguments.classes + min(half, arguments.classes))
    queries = torch.cat(
        [mixture(half, arguments.dim, range(arguments.classes), seed=1), mixture(half, arguments.dim, others, seed=1)]
    )
    neighbors = opened(bank, arguments)
    true, ours, seconds = [], [], []
    calls = (
        lambda: true.append(faiss.knn(queries.numpy(), bank.numpy(), k)),
        lambda: queries @ bank.T,
        lambda: ours.append(neighbors.kth_distance(queries, k)),
    )
    for _ in range(arguments.rounds):
        seconds.append([1000 / len(queries) * timed(call) for call in calls])
    flat, products, search = np.min(seconds, axis=0)
    print(f"{arguments.rows:,} x {arguments.dim}, {len(queries)} queries, k = {k}, {torch.get_num_threads()} threads")
    print(f"index {arguments.index}: {len(neighbors.stored()) / 1e6:.0f} MB, {neighbors.count} candidates, ", end="")
    cells = None if arguments.index == "hnsw" else faiss_backend.cells_of(neighbors.index)
    print(f"{cells.nprobe} of {cells.nlist} cells" if cells else f"{neighbors.index.hnsw.efSearch} nodes in view")
    print(f"processor, ms a query: search {search:.2f}, faiss's flat search {flat:.2f}, products alone {products:.2f}")
    print(f"search beside the flat search {search / flat:.3f}, beside the products alone {search / products:.3f}")
    found = neighbors.candidates(neighbors.unit(queries), k)[0]
    reach = neighbors._exact(neighbors.unit(queries), torch.from_numpy(true[0][1])).amax(dim=1)
    for name, part in (("known classes", slice(half)), ("other classes", slice(half, None))):
        share = recall(found[part], torch.from_numpy(true[0][1][part]))
        off = (ours[0] / reach - 1)[part]
        print(f"{name}: recall {share:.4f}; k-th distance too long by {off.mean():.1e}, at most {off.max():.1e}")


def mixture(rows: int, dim: int, classes: range, seed: int = 0) -> Tensor:
    """Unit rows (n, d) of the classes in turn; a class's mean and directions depend on its number alone."""
    result = torch.empty(rows, dim)
    spectrum = torch.arange(1, dim + 1).float().pow(-0.6)
    for place, number in enumerate(classes):
        own = torch.Generator().manual_seed(number)
        mean = torch.randn(dim, generator=own) * spectrum
        directions = torch.randn(_DIRECTIONS, dim, generator=own) * (_SPREAD * spectrum[:_DIRECTIONS, None] / dim**0.5)
        draw = torch.Generator().manual_seed((seed + 1) * 1_000_003 + number)
        members = result[place :: len(classes)]
        noise = torch.randn(*members.shape, generator=draw).mul_(_NOISE)
        torch.addmm(noise, torch.randn(len(members), _DIRECTIONS, generator=draw), directions, out=noise)
        members.copy_(torch.nn.functional.normalize(noise.add_(mean)))
    return result


def opened(bank: Tensor, arguments: argparse.Namespace) -> ApproximateNeighbors:
    """The search over the bank, its index from the folder where an earlier run left it."""
    path = arguments.work / f"{arguments.index}-{arguments.rows}-{arguments.dim}-{arguments.classes}.npz"
    options: dict[str, Any] = {"k": arguments.k, "recall": arguments.recall}
    if path.is_file():
        with np.load(path) as kept:
            options |= {"stored": torch.from_numpy(kept["index"]), "count": int(kept["count"])}
        return ApproximateNeighbors(bank, True, arguments.index, **options)
    built: list[ApproximateNeighbors] = []
    seconds = timed(lambda: built.append(ApproximateNeighbors(bank, True, arguments.index, **options)))
    print(f"built and tuned in {seconds:.0f} s of processor")
    arguments.work.mkdir(parents=True, exist_ok=True)
    np.savez(path, index=built[0].stored().numpy(), count=built[0].count)
    return built[0]


def recall(found: Tensor, true: Tensor) -> float:
    """Share of the true neighbours (n, k) among those found (n, m)."""
    return float((true[:, :, None] == found[:, None]).any(dim=2).double().mean())


def timed(call: Callable[[], object]) -> float:
    """Processor time in seconds."""
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
