"""The graphs of a run: drawn from a block model, each from a seed of its own, or the one of a data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from ood_nc.caching import cached_property
from ood_nc.config import Config, GraphsConfig
from ood_nc.errors import UserError, nearest
from ood_nc.graphs.block_model import SETTINGS, BlockModel
from ood_nc.graphs.datasets import load_graph
from ood_nc.graphs.objective import match_labels
from ood_nc.training.seeds import derive_seed


@dataclass(frozen=True)
class Sample:
    """A graph and which of its nodes count.

    Attributes:
        graph: with ``x`` and ``edge_index``.
        nodes: indices of the ID nodes that are learnt from or measured.
        labels: their classes, 0 to C - 1.
        named: whether the classes have names; else they are known up to a permutation.
        ood: indices of OOD nodes by set.
    """

    graph: Data
    nodes: Tensor
    labels: Tensor
    named: bool
    ood: dict[str, Tensor]

    def matched(self, outputs: Tensor) -> Tensor:
        """The labels, renamed to fit the outputs of all nodes (N, C) where they have no names."""
        return self.labels if self.named else match_labels(outputs[self.nodes], self.labels)


def block_model(config: GraphsConfig) -> BlockModel:
    """The named setting, with what the configuration gives in place of its own.

    Raises:
        UserError: unknown setting, or values that make no model.
    """
    if config.setting not in SETTINGS:
        raise UserError(
            f"graphs.setting is {config.setting!r}.{nearest(config.setting, SETTINGS)} Use {', '.join(SETTINGS)}."
        )
    given = {name: getattr(config, name) for name in ("nodes", "communities", "p", "q", "draw")}
    return replace(SETTINGS[config.setting], **{name: value for name, value in given.items() if value is not None})


class BlockSource:
    """Graphs of the block model; those with OOD nodes have a community more, and some nodes with p and q exchanged.

    Raises:
        UserError: values that make no model, or leave none of its nodes ID.
    """

    def __init__(self, config: GraphsConfig, seed: int) -> None:
        self.model = block_model(config)
        if config.held_out_classes:
            raise UserError("graphs.held_out_classes are of a data set: name it, graphs.dataset, or leave them out.")
        size = self.model.community_size
        if round(config.swapped * size) >= size:
            raise UserError(f"graphs.swapped is {config.swapped}, which leaves no ID node in communities of {size}.")
        self.classes, self.features = self.model.communities, config.node_features
        self.seed, self.swapped = seed, config.swapped

    def _sample(self, use: str, number: int, *, mixed: bool = False) -> Sample:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, use, number))
        swapped = self.swapped if mixed else 0.0
        graph = self.model.sample(generator, dim=self.features, held_out=mixed, swapped=swapped)
        known = (graph.y < self.classes) & ~graph.swapped
        nodes = known.nonzero()[:, 0]
        found = {"held_out_community": graph.y == self.classes, "swapped_block": graph.swapped} if mixed else {}
        ood = {name: mask.nonzero()[:, 0] for name, mask in found.items() if mask.any()}
        return Sample(graph, nodes, graph.y[nodes], False, ood)

    def fingerprint(self) -> str:
        """Empty: section and seed say what is drawn."""
        return ""

    def train(self, number: int) -> Sample:
        """The training graph of that number."""
        return self._sample("train graph", number)

    def test(self, number: int) -> Sample:
        """The test graph of that number."""
        return self._sample("test graph", number)

    def mixed(self, number: int) -> Sample:
        """The graph of that number in which some nodes are OOD."""
        return self._sample("mixed graph", number, mixed=True)


class FileSource:
    """One graph from files, whatever the number: trained on its training nodes, tested on its test nodes.

    Raises:
        UserError: files or held-out classes that are not there, too few classes left, or a split without an ID node.
    """

    def __init__(self, config: GraphsConfig, root: str | Path) -> None:
        self.graph = load_graph(str(config.dataset), root)
        held_out = torch.tensor(config.held_out_classes, dtype=torch.long)
        unknown = sorted(set(config.held_out_classes) - set(self.graph.y.tolist()))
        if unknown:
            raise UserError(
                f"graphs.held_out_classes names {unknown[0]}, which is no class of {config.dataset}: "
                f"it has 0 to {int(self.graph.y.max())}."
            )
        self.is_ood = torch.isin(self.graph.y, held_out)
        kept = self.graph.y[~self.is_ood].unique()
        self.classes, self.features = len(kept), self.graph.num_features
        if self.classes < 2:
            raise UserError(
                f"graphs.held_out_classes leaves {self.classes} classes of {config.dataset}: hold out fewer."
            )
        self.number_of = torch.full((int(self.graph.y.max()) + 1,), -1)
        self.number_of[kept] = torch.arange(self.classes)
        for part, mask in (("training", self.graph.train_mask), ("test", self.graph.test_mask)):
            if not bool((mask & ~self.is_ood).any()):
                raise UserError(f"{config.dataset} has no ID node in its {part} split: hold out other classes.")

    def _sample(self, mask: Tensor) -> Sample:
        nodes = (mask & ~self.is_ood).nonzero()[:, 0]
        return Sample(self.graph, nodes, self.number_of[self.graph.y[nodes]], True, self._ood)

    @cached_property
    def _ood(self) -> dict[str, Tensor]:
        nodes = (self.graph.test_mask & self.is_ood).nonzero()[:, 0]
        return {"held_out_classes": nodes} if len(nodes) else {}

    def fingerprint(self) -> str:
        """A hash that changes when the graph does: features, edges, classes or split; the place does not count."""
        digest = hashlib.blake2b(digest_size=16)
        for name in ("x", "edge_index", "y", "train_mask", "test_mask"):
            digest.update(self.graph[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def train(self, number: int) -> Sample:
        """The training nodes."""
        return self._sample(self.graph.train_mask)

    def test(self, number: int) -> Sample:
        """The test nodes."""
        return self._sample(self.graph.test_mask)

    mixed = test


def open_source(config: Config) -> BlockSource | FileSource:
    """The graphs that a configuration asks for."""
    assert config.graphs is not None
    if config.graphs.dataset is None:
        return BlockSource(config.graphs, config.train.seed)
    return FileSource(config.graphs, config.data.root or ".")
