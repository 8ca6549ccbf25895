from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from torch_geometric.utils import to_networkx

from ood_nc.errors import UserError
from ood_nc.graphs import BlockModel, overlap, projected_power_iterations, spectral_labels, spectrum
from ood_nc.graphs.spectral import OPERATORS, dense_operator, informative


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_the_operators_are_those_of_networkx() -> None:
    graph = BlockModel(40, 2, 0.2, 0.1).sample(generator(), dim=1)
    other = to_networkx(graph, to_undirected=True)
    laplacian = networkx.normalized_laplacian_matrix(other).toarray()
    degrees = dict(other.degree())
    connected = [node for node in other if degrees[node]]  # networkx leaves 0 for a node without neighbours
    found = dense_operator(graph.edge_index, 40, "normalized_laplacian").numpy()
    np.testing.assert_allclose(found[np.ix_(connected, connected)], laplacian[np.ix_(connected, connected)], atol=1e-12)
    r = np.sqrt(np.mean(list(degrees.values())))
    np.testing.assert_allclose(
        dense_operator(graph.edge_index, 40, "bethe_hessian").numpy(),
        networkx.bethe_hessian_matrix(other, r=r).toarray(),
        atol=1e-12,
    )


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("heterophilic", [False, True])
def test_the_iterations_find_the_eigenvectors_and_the_communities(name: str, classes: int, heterophilic: bool) -> None:
    inside, across = (0.02, 0.5) if heterophilic else (0.4, 0.05)
    model = BlockModel(120, classes, inside, across)
    assert model.heterophilic == heterophilic
    graph = model.sample(generator(), dim=1)
    early, late = projected_power_iterations(
        graph.edge_index, 120, classes, name, [2, 400], generator(), heterophilic=heterophilic
    )
    exact = informative(
        spectrum(graph.edge_index, 120, name, heterophilic=heterophilic), classes, heterophilic=heterophilic
    )
    assert torch.linalg.matrix_norm(exact.T @ late, 2) == pytest.approx(1, abs=1e-6)
    assert torch.linalg.svdvals(exact.T @ late).min() > torch.linalg.svdvals(exact.T @ early).min()
    assert overlap(spectral_labels(late, classes), graph.y, classes) > 0.95


@pytest.mark.parametrize("classes", [2, 4])
def test_heterophilic_communities_are_at_the_other_end_of_the_adjacency(classes: int) -> None:
    graph = BlockModel(120, classes, 0.02, 0.5).sample(generator(), dim=1)
    adjacency = np.zeros((120, 120))
    adjacency[tuple(graph.edge_index.numpy())] = 1
    scale = adjacency.sum(axis=1) ** -0.5
    eigenvectors = np.linalg.eigh(scale[:, None] * adjacency * scale)[1]
    end = torch.from_numpy(eigenvectors[:, : classes - 1].copy())
    found = informative(
        spectrum(graph.edge_index, 120, "normalized_laplacian", heterophilic=True), classes, heterophilic=True
    )
    assert torch.linalg.svdvals(end.T @ found).min() == pytest.approx(1, abs=1e-9)
    r = -np.sqrt(adjacency.sum(axis=1).mean())
    expected = networkx.bethe_hessian_matrix(to_networkx(graph, to_undirected=True), r=r).toarray()
    operator = dense_operator(graph.edge_index, 120, "bethe_hessian", heterophilic=True).numpy()
    np.testing.assert_allclose(operator, expected, atol=1e-12)
    assert (np.linalg.eigvalsh(operator) < 0).sum() == classes - 1  # as many as there is to find (Saade et al.)


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(UserError, match="bethe_hessian"):
        dense_operator(torch.zeros(2, 0, dtype=torch.long), 3, "laplacian")  # type: ignore[arg-type]
