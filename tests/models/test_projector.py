from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_nc.errors import UserError
from ood_nc.models import Projector


def _closed_form(features: torch.Tensor, hidden: int) -> torch.Tensor:
    """What the two matrices of the paper's code amount to, without a matrix: centre, ReLU, centre, normalise."""
    dim = features.shape[1]
    mean = features.mean(dim=1, keepdim=True)
    inner, rest = (features - mean).clamp(min=0), (-mean).clamp(min=0)
    output = inner - (inner.sum(dim=1, keepdim=True) + (hidden - dim) * rest) / dim
    return output / output.norm(dim=1, keepdim=True)


@pytest.fixture(autouse=True)
def _float64() -> None:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


@pytest.mark.parametrize("width", [1, 4, 8])
@pytest.mark.parametrize("sign", ["any", "nonnegative"])
def test_paper_construction_is_its_closed_form(width: int, sign: str) -> None:
    features = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    features = features.abs() if sign == "nonnegative" else features
    projected = Projector(48, width=width)(features)
    error = (projected - _closed_form(features, width * 48)).abs().max().item()
    assert error < (2e-15 if sign == "nonnegative" else 3e-14)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.integers(1, 6), st.integers(0, 1000))
def test_closed_form_at_any_size(dim: int, width: int, seed: int) -> None:
    features = torch.randn(5, dim, generator=torch.Generator().manual_seed(seed))
    projected = Projector(dim, width=width)(features)
    torch.testing.assert_close(projected, _closed_form(features, width * dim), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [64, 192, 512])
def test_widths_of_the_paper(dim: int) -> None:
    first, second = (layer.weight for layer in Projector(dim).layers)
    assert first.shape == (4 * dim, dim)
    assert second.shape == (dim, 4 * dim)


def test_a_constant_nonnegative_vector_maps_to_zero() -> None:
    projected = Projector(16, eps=1e-6)(torch.full((2, 16), 3.0))
    assert projected.norm(dim=1).max() < 1e-6
    assert torch.equal(Projector(16)(torch.zeros(1, 16)), torch.zeros(1, 16)), "a zero row stays zero, not NaN"


@pytest.mark.parametrize("construction", ["paper", "orthonormal"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_frozen_weights_are_buffers(construction: str, depth: int) -> None:
    projector = Projector(12, construction=construction, depth=depth)
    assert list(projector.parameters()) == []
    assert set(projector.state_dict()) == {f"layers.{i}.weight" for i in range(depth)}
    features = torch.randn(3, 12, requires_grad=True)
    projected = projector(features)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(3))
    projected[:, 0].sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(layer.weight.grad is None and not layer.weight.requires_grad for layer in projector.layers)


def test_plastic_is_trainable_with_biases() -> None:
    projector = Projector(10, "plastic", width=2, dim=7)
    assert {name: tuple(p.shape) for name, p in projector.named_parameters()} == {
        "layers.0.weight": (20, 10),
        "layers.0.bias": (20,),
        "layers.1.weight": (7, 20),
        "layers.1.bias": (7,),
    }
    projector(torch.randn(4, 10))[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())


def test_depth_one_of_the_orthonormal_construction_is_one_matrix() -> None:
    projector = Projector(6, construction="orthonormal", depth=1, dim=9, normalize=False)
    features = torch.randn(4, 6)
    torch.testing.assert_close(projector(features), features @ projector.layers[0].weight.T)


def test_the_seed_decides_the_orthonormal_weights() -> None:
    weights = [Projector(6, construction="orthonormal", seed=s).layers[0].weight for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_is_taken_in_float32_under_autocast(dtype: torch.dtype) -> None:
    projector = Projector(32).float()
    features = torch.randn(8, 32, dtype=torch.float32) * 1000  # squares overflow in float16
    with torch.autocast("cpu", dtype):
        projected = projector(features)
    assert projected.dtype == torch.float32
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(8, dtype=torch.float32), atol=1e-6, rtol=0)
    torch.testing.assert_close(projected, projector(features), atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_without_autocast(dtype: torch.dtype) -> None:
    assert Projector(32).to(dtype)(torch.randn(2, 32, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "simplex"}, "Unknown projector 'simplex'"),
        ({"construction": "papr"}, "Did you mean 'paper'"),
        ({"depth": 0}, "at least 1"),
        ({"dim": 1}, "at least 2 vertices"),
    ],
)
def test_wrong_settings_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Projector(8, **arguments)
    assert "\n" not in str(caught.value)


def test_options_rebuild_it() -> None:
    projector = Projector(8, construction="orthonormal", depth=3, width=2, dim=5, normalize=False, seed=4)
    again = Projector(8, projector.kind, **projector.options())
    features = torch.randn(3, 8)
    assert torch.equal(projector(features), again(features))
    assert "frozen" in repr(projector)
    assert "simplex_etf" in repr(projector)


def test_random_weights_are_frozen_gaussian_and_no_frame() -> None:
    projector = Projector(64, "random", seed=3)
    assert list(projector.parameters()) == []
    first, second = (layer.weight for layer in projector.layers)
    assert (first.shape, second.shape) == ((256, 64), (64, 256))
    assert first.var().item() * 64 == pytest.approx(1, abs=0.05)
    assert second.var().item() * 256 == pytest.approx(1, abs=0.05)
    cosines = torch.nn.functional.normalize(first.T) @ torch.nn.functional.normalize(first.T).T
    off_diagonal = cosines[~torch.eye(64, dtype=torch.bool)]
    assert off_diagonal.std().item() == pytest.approx(256**-0.5, rel=0.1), "a simplex has one cosine only"
    assert torch.equal(Projector(64, "random", seed=3).layers[0].weight, first)
    assert not torch.equal(Projector(64, "random", seed=4).layers[0].weight, first)
