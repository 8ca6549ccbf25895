"""Real graphs from local files, read by PyTorch Geometric and by OGB; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch_geometric.data import Data

from ood_nc.errors import MissingPackageError, UserError, nearest

PLANETOID = ("Cora", "CiteSeer", "PubMed")


def load_graph(name: str, root: str | Path) -> Data:
    """One graph with ``x``, ``edge_index``, ``y``, ``train_mask``, ``test_mask``.

    Args:
        name: Cora, CiteSeer or PubMed (Planetoid's raw files, ``ROOT/NAME/raw/ind.NAME.*``), or a node data set of OGB
            such as ogbn-arxiv (``ROOT/ogbn_arxiv``, as OGB lays it out).
        root: the folder of data sets.

    Planetoid's files are pickles and OGB's may be: what they hold is run, so they must be from someone who is trusted.

    Raises:
        UserError: unknown name, or files that are not there.
        MissingPackageError: OGB is not installed.
    """
    if name.startswith("ogbn-"):
        return _ogb(name, Path(root))
    if name not in PLANETOID:
        raise UserError(f"Unknown graph {name!r}: use {', '.join(PLANETOID)} or ogbn-NAME.{nearest(name, PLANETOID)}")
    from torch_geometric.datasets import Planetoid

    raw = Path(root) / name / "raw"
    missing = [
        part
        for part in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
        if not _part(raw, name, part).is_file()
    ]
    if missing:
        raise UserError(f"{_part(raw, name, missing[0])} is not there: put Planetoid's raw files into {raw}.")
    return Planetoid(str(root), name)[0]


def _part(raw: Path, name: str, part: str) -> Path:
    return raw / f"ind.{name.lower()}.{part}"


def _ogb(name: str, root: Path) -> Data:
    folder = root / name.replace("-", "_")
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: unpack OGB's {name} into {root}.")
    try:
        from ogb.nodeproppred import PygNodePropPredDataset
    except ModuleNotFoundError:
        raise MissingPackageError(f"{name} is read by OGB: pip install ogb.") from None
    dataset = PygNodePropPredDataset(name, root=str(root))
    graph, split = dataset[0], dataset.get_idx_split()
    graph.y = graph.y.view(-1)
    for part in ("train", "test"):
        mask = torch.zeros(graph.num_nodes, dtype=torch.bool)
        mask[split[part]] = True
        graph[f"{part}_mask"] = mask
    return graph
