from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_nc.errors import UserError
from ood_nc.models.etf import ETFClassifier, orthonormal_weight, paper_weight, simplex_vertices


def _assert_simplex(vertices: torch.Tensor, tolerance: float) -> None:
    """Gram matrix against its closed form: 1 on the diagonal, -1/(K-1) off it; sum zero."""
    count = len(vertices)
    expected = (torch.eye(count) * count - 1).to(vertices.dtype) / (count - 1)
    torch.testing.assert_close(vertices @ vertices.T, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(vertices.sum(0), torch.zeros_like(vertices[0]), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dim", [4, 5, 8])
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_five_vertices_have_cosine_minus_a_quarter(dim: int, seed: int | None) -> None:
    vertices = simplex_vertices(5, dim, seed=seed)
    assert vertices.dtype == torch.float32
    assert vertices.shape == (5, dim)
    _assert_simplex(vertices, 1e-6)


def test_too_few_dimensions_are_an_error_that_names_both() -> None:
    with pytest.raises(UserError, match=r"K = 5 vertices in d = 3 dimensions"):
        simplex_vertices(5, 3)
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        simplex_vertices(1, 4)


def test_two_vertices_in_one_dimension_are_plus_and_minus_one() -> None:
    assert sorted(simplex_vertices(2, 1).flatten().tolist()) == pytest.approx([-1, 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 20), st.integers(0, 100))
def test_vertices_form_a_simplex_at_any_size(count: int, extra: int, seed: int) -> None:
    _assert_simplex(simplex_vertices(count, count - 1 + extra, seed=seed, dtype=torch.float64), 1e-13)


def test_the_seed_decides_the_rotation() -> None:
    assert torch.equal(simplex_vertices(6, 9, seed=1), simplex_vertices(6, 9, seed=1))
    assert not torch.allclose(simplex_vertices(6, 9, seed=1), simplex_vertices(6, 9, seed=2))


def test_float32_vertices_are_the_rounded_float64_ones() -> None:
    exact = simplex_vertices(100, 512, seed=0, dtype=torch.float64)
    assert torch.equal(simplex_vertices(100, 512, seed=0), exact.float())


def test_paper_weight_entries() -> None:
    weight = paper_weight(3, 2, 4)
    scale = math.sqrt(4 / 3)
    expected = torch.tensor([[0.75, -0.25], [-0.25, 0.75], [-0.25, -0.25]], dtype=torch.float64) * scale
    torch.testing.assert_close(weight, expected, atol=1e-15, rtol=0)


def test_paper_weight_is_a_simplex_when_square_only() -> None:
    _assert_simplex(paper_weight(8, 8, 8), 1e-14)
    tall = paper_weight(10, 4, 4)
    assert torch.equal(tall[4], tall[9]), "the rows past the square block are identical"


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 100))
def test_orthonormal_weight_is_a_simplex_at_any_shape(rows: int, columns: int, seed: int) -> None:
    weight = orthonormal_weight(rows, columns, torch.Generator().manual_seed(seed))
    assert weight.shape == (rows, columns)
    _assert_simplex(weight.T if rows >= columns else weight, 1e-13)


def test_no_simplex_of_one_vertex() -> None:
    with pytest.raises(UserError, match="at least 2 vertices, got 1"):
        paper_weight(4, 1, 1)
    with pytest.raises(UserError, match="at least 2 vertices"):
        orthonormal_weight(1, 4, torch.Generator())


def test_classifier_has_nothing_to_train() -> None:
    classifier = ETFClassifier(6, 4)
    assert list(classifier.parameters()) == []
    assert classifier.bias is None
    assert set(classifier.state_dict()) == {"weight"}
    logits = classifier(classifier.weight)
    assert torch.equal(logits.argmax(1), torch.arange(4))
    assert "in_features=6" in repr(classifier)
    with pytest.raises(UserError, match="d = 6"):
        ETFClassifier(6, 8)
