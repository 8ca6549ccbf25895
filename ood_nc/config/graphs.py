"""The section of a run on graphs (`ood_nc.graphs`); what it shares with other runs stands in their sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ood_nc.config.values import Section, Text, flag

Probability = Annotated[float, Field(ge=0, le=1)]


class GraphsConfig(Section):
    """Graphs of a block model (`setting` to `draw`) or one from files (`dataset`), and the network trained on them."""

    setting: Text = flag("c2-n1000", "a setting of the paper: c2 or c4, n1000 or n1500, -heterophilic behind it")
    nodes: int | None = flag(None, "N, where it is not that of the setting", ge=2, le=20_000)
    communities: int | None = flag(None, "C, likewise; of equal size", ge=2, le=64)
    p: Probability | None = flag(None, "probability of an edge inside a community, likewise")
    q: Probability | None = flag(None, "probability of an edge between communities, likewise")
    draw: Literal["pair", "paper"] = flag("pair", "a pair of nodes is drawn once, or twice as in the paper's code")
    dataset: Text | None = flag(None, "in place of the block model: Cora, CiteSeer, PubMed, ogbn-NAME, under data.root")
    held_out_classes: list[Annotated[int, Field(ge=0)]] = flag([], "of `dataset`: classes that are OOD")
    node_features: int = flag(8, "their number, of the block model", ge=1, le=2**14)
    hidden: int = flag(8, "width of the layers", ge=1, le=2**14)
    layers: int = flag(34, "GraphConv layers, first and last included", ge=1, le=1024)
    own_weight: bool = flag(True, "each layer has W1, the term of the node's own features")
    train_graphs: int = flag(1000, "graphs an epoch, one a step", ge=1)
    test_graphs: int = flag(100, "graphs that are measured", ge=1)
    fit_graphs: int = flag(10, "training graphs that detectors are fitted on", ge=1)
    swapped: Probability = flag(0.1, "share of nodes with p and q exchanged in the graphs of node-level OOD detection")
