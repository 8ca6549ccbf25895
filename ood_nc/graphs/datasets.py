"""Real graphs from local files: Planetoid's by PyTorch Geometric, OGB's tables as they are; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask, to_undirected

from ood_nc.errors import UserError, nearest

PLANETOID = ("Cora", "CiteSeer", "PubMed")


def load_graph(name: str, root: str | Path) -> Data:
    """One graph with ``x``, ``edge_index``, ``y``, ``train_mask``, ``test_mask``.

    Args:
        name: Cora, CiteSeer or PubMed (Planetoid's raw files, ``ROOT/NAME/raw/ind.NAME.*``), or a node data set of OGB
            with features and one label a node, such as ogbn-arxiv and ogbn-products (its unpacked tables,
            ``ROOT/ogbn_arxiv/raw/*.csv.gz`` and ``ROOT/ogbn_arxiv/split/*/*.csv.gz``). Edges count in both directions.
        root: the folder of data sets.

    Planetoid's files are pickles: what they hold is run, so they must be from someone who is trusted.

    Raises:
        UserError: unknown name, or files that are not there or hold something else.
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
    try:
        return Planetoid(str(root), name)[0]
    except OSError:
        raise
    except Exception as error:  # unpickling what is damaged raises anything
        raise UserError(f"{raw} does not hold Planetoid's files of {name}: {error}") from None


def _part(raw: Path, name: str, part: str) -> Path:
    return raw / f"ind.{name.lower()}.{part}"


def _ogb(name: str, root: Path) -> Data:
    folder = root / name.replace("-", "_")
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: unpack OGB's {name} into {root}.")
    features = _table(folder / "raw" / "node-feat.csv.gz").float()
    nodes = len(features)
    labels = _numbers(folder / "raw" / "node-label.csv.gz", width=1)[:, 0]
    if len(labels) != nodes:
        raise UserError(
            f"{folder}/raw has {nodes} rows of features and {len(labels)} labels: give one of each for a node."
        )
    edges = to_undirected(
        _numbers(folder / "raw" / "edge.csv.gz", width=2, below=nodes).T.contiguous(), num_nodes=nodes
    )
    splits = sorted(folder.glob("split/*/train.csv.gz"))
    if len(splits) != 1:
        raise UserError(
            f"{folder}/split holds {len(splits)} folders with train.csv.gz and test.csv.gz: leave one there."
        )
    masks = {
        f"{part}_mask": index_to_mask(
            _numbers(splits[0].with_name(f"{part}.csv.gz"), width=1, below=nodes)[:, 0], nodes
        )
        for part in ("train", "test")
    }
    return Data(x=features, edge_index=edges, y=labels, **masks)


def _table(path: Path) -> Tensor:
    """The numbers of a table without a head (rows, columns), float64."""
    if not path.is_file():
        raise UserError(f"{path} is not there: read are OGB's data sets with features and labels of nodes, as tables.")
    try:
        table = pa.csv.read_csv(path, pa.csv.ReadOptions(autogenerate_column_names=True))
        found = np.column_stack([column.to_numpy() for column in table.columns]).astype(np.float64)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UserError(f"{path} is no table of numbers: {error}") from None
    if not np.isfinite(found).all():
        raise UserError(f"{path} has values that are missing or infinite: fill them in.")
    return torch.from_numpy(found)


def _numbers(path: Path, *, width: int, below: int | None = None) -> Tensor:
    """The whole numbers of a table (rows, width), from 0 to below ``below``."""
    found = _table(path)
    whole = found.long()
    if found.shape[1] != width or (whole != found).any() or whole.min() < 0 or (below and whole.max() >= below):
        limit = "" if below is None else f" below {below}"
        raise UserError(f"{path} must have {width} whole numbers{limit} in every row.")
    return whole
