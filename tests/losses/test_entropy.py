"""The entropy loss against a float64 loop, closed forms, and the values of published field cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from ood_nc.errors import UserError
from ood_nc.losses import nearest_neighbor_entropy


def slow(features: np.ndarray, groups: np.ndarray | None = None, eps: float = 1e-8) -> float:
    """The definition, one pair at a time, in float64."""
    rows = np.asarray(features, dtype=np.float64)
    unit = [row / max(math.sqrt(sum(value * value for value in row)), eps) for row in rows]
    logs = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i and (groups is None or groups[i] != groups[j])]
        if others:
            j = max(others, key=lambda j: float(unit[i] @ unit[j]))
            rho = math.sqrt(sum((a - b + eps) ** 2 for a, b in zip(unit[i], unit[j], strict=True)))
            logs.append(math.log(rho + eps))
    return -sum(logs) / len(logs) if logs else 0.0


def gradient(features: torch.Tensor, **options) -> tuple[float, torch.Tensor]:
    features = features.clone().requires_grad_()
    loss = nearest_neighbor_entropy(features, **options)
    loss.backward()
    return loss.item(), features.grad


ROOT = math.sqrt(3) / 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0], [-1, 0]], -math.log(2)),
        ([[1, 0], [0, 1]], -0.5 * math.log(2)),
        ([[1, 0], [-0.5, ROOT], [-0.5, -ROOT]], -0.549306),
        ([[1, 0], [1, 0], [0, 1]], 11.57735),
        ([[3, 4]], 0.0),
    ],
)
def test_values_of_the_field_case(rows: list, expected: float) -> None:
    for dtype in (torch.float32, torch.float64):
        value = nearest_neighbor_entropy(torch.tensor(rows, dtype=dtype))
        assert value.dtype == dtype and value.shape == ()
        assert value.item() == pytest.approx(expected, abs=1e-6 if abs(expected) < 1 else 2e-5)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 3), (64, 16), (200, 5)])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_equals_the_slow_definition(n: int, d: int, offset: float) -> None:
    features = np.random.default_rng(n + d).normal(size=(n, d)) + offset
    assert nearest_neighbor_entropy(features).item() == pytest.approx(slow(features), rel=1e-12)
    assert nearest_neighbor_entropy(features.astype(np.float32)).item() == pytest.approx(slow(features), abs=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(2, 8), st.integers(0, 10**6), st.floats(1e-2, 1e3))
def test_invariances(n: int, d: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    value = nearest_neighbor_entropy(rows)
    scales = torch.rand(n, 1, generator=generator, dtype=torch.float64) + 0.1
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    for same in (rows[torch.randperm(n, generator=generator)], rows * scale * scales, rows @ rotation):
        torch.testing.assert_close(nearest_neighbor_entropy(same), value, rtol=1e-5, atol=1e-5)
    assert value >= -math.log(2) - 1e-7  # no two points of the sphere are further apart than 2


def test_gradient_is_that_of_the_definition() -> None:
    rows = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(nearest_neighbor_entropy, rows)


def test_estimates_the_entropy_of_the_uniform_sphere() -> None:
    n, dim = 4000, 4
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner = dim - 1
    ball = inner / 2 * math.log(math.pi) - gammaln(inner / 2 + 1)
    estimate = -inner * nearest_neighbor_entropy(rows).item() + ball + digamma(n) - digamma(1)
    area = math.log(2) + dim / 2 * math.log(math.pi) - gammaln(dim / 2)
    assert estimate == pytest.approx(area, abs=0.06)


def test_descent_spreads_a_collapsed_batch() -> None:
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)) * 0.01 + 1
    before = nearest_neighbor_entropy(rows).item()
    rows.requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        nearest_neighbor_entropy(rows).backward()
        optimizer.step()
    assert nearest_neighbor_entropy(rows).item() < before - 2


DEGENERATE = {
    "three identical rows": torch.ones(3, 8),
    "three zero rows": torch.zeros(3, 8),
    "identical after normalisation": torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]]),
    "near-duplicates": 1 + 1e-5 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0)),
    "tiny rows": 1e-7 * torch.eye(3),
    "half precision": torch.ones(4, 16).half(),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_keep_their_value_and_give_no_gradient(name: str) -> None:
    rows = DEGENERATE[name]
    value, slope = gradient(rows)
    # float32 rounding moves a tiny distance, and so its log; the value itself stays that of the definition.
    assert value == pytest.approx(slow(rows.double().numpy()), abs=0.3)
    assert slope.abs().max() == 0


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_do_not_disturb_the_others(name: str) -> None:
    bad = DEGENERATE[name].float()
    healthy = torch.randn(6, bad.shape[1], generator=torch.Generator().manual_seed(1))
    value, slope = gradient(torch.cat([bad, healthy]))
    assert math.isfinite(value)
    assert slope[: len(bad)].abs().max() < 10
    assert 0 < slope[len(bad) :].abs().max() < 10


def test_gradient_stays_bounded_however_close_the_rows_are() -> None:
    for spread in 10.0 ** np.arange(-9, 0.1, 0.5):
        rows = torch.tensor([[1.0, 0.0], [1.0, spread], [0.0, 1.0]])
        slope = gradient(rows)[1]
        assert slope.isfinite().all()
        assert slope.norm() <= 2 / (3 * 1e-4)
    assert gradient(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))[1].norm() > 10


def test_a_zero_row_as_neighbor_gets_no_gradient() -> None:
    _, slope = gradient(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    assert slope.abs().max() < 1e-6


def test_batch_concatenated_with_itself() -> None:
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    value, slope = gradient(torch.cat([rows, rows]))
    assert value > 15
    assert slope.abs().max() == 0


def test_fewer_than_two_rows_give_zero_and_a_graph() -> None:
    for rows in (torch.ones(1, 4), torch.ones(0, 4), torch.full((1, 4), torch.inf)):
        value, slope = gradient(rows)
        assert value == 0
        assert not slope.any()


def test_rows_of_one_group_are_no_neighbors() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(6, 4))
    copies = np.concatenate([images, images + 1e-3 * generator.normal(size=images.shape)])
    groups = np.tile(np.arange(6), 2)
    value = nearest_neighbor_entropy(copies, groups=groups).item()
    assert value == pytest.approx(slow(copies, groups), rel=1e-12)
    assert value < nearest_neighbor_entropy(copies).item() - 3


def test_a_row_without_another_group_is_left_out() -> None:
    rows = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, slope = gradient(rows, groups=[7, 7, 7, 7])
    assert value == 0 and not slope.any()
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert nearest_neighbor_entropy(rows, groups=torch.tensor([0, 1])).item() == pytest.approx(-0.5 * math.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    rows = torch.ones(128, 192) + 0.02 * torch.randn(128, 192, generator=torch.Generator().manual_seed(0))
    value, slope = gradient(rows)
    with torch.autocast("cpu", dtype=dtype):
        inside, slope_inside = gradient(rows)
        low = nearest_neighbor_entropy(rows.to(dtype))
    assert inside == value
    assert torch.equal(slope_inside, slope)
    assert low.dtype == torch.float32
    assert value == pytest.approx(slow(rows.double().numpy()), abs=1e-5)


def test_half_precision_input_gets_a_half_precision_gradient() -> None:
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).half()
    value, slope = gradient(rows)
    assert slope.dtype == torch.float16
    exact, exact_slope = gradient(rows.double())
    assert value == pytest.approx(exact, abs=1e-5)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2e-3, atol=1e-5)


def test_neighbors_are_exact_where_float32_products_tie() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (1 + 1e-4 * torch.randn(64, 32, generator=generator, dtype=torch.float64)).float()
    assert nearest_neighbor_entropy(rows).item() == pytest.approx(slow(rows.double().numpy()), abs=1e-3)


def test_any_layout_and_the_input_stays() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    kept = rows.copy()
    value = nearest_neighbor_entropy(rows)
    wide = np.repeat(rows, 2, axis=0)[::2]
    for same in (np.asfortranarray(rows), wide, torch.from_numpy(rows).T.contiguous().T, rows[::-1]):
        torch.testing.assert_close(nearest_neighbor_entropy(same), value)
    assert np.array_equal(rows, kept)


@pytest.mark.slow
def test_compiles_in_one_graph() -> None:
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(nearest_neighbor_entropy, fullgraph=True, backend="aot_eager")
    expected, slope = gradient(rows)
    inside = rows.clone().requires_grad_()
    value = compiled(inside)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(inside.grad, slope)


@pytest.mark.slow
def test_compiles_with_the_default_backend() -> None:
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(nearest_neighbor_entropy, fullgraph=True)
    torch.testing.assert_close(compiled(rows), nearest_neighbor_entropy(rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": torch.zeros(4, 7, 7)}, "features must have shape.*pool"),
        ({"features": torch.zeros(4)}, "features must have shape"),
        ({"features": torch.zeros(4, 2), "groups": [1, 2]}, r"groups must have shape \(4,\), got \(2,\)"),
        ({"features": torch.zeros(4, 2), "scope": "local"}, "scope must be.*'local'"),
    ],
)
def test_mistakes_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        nearest_neighbor_entropy(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e30), (torch.float32, 3e38), (torch.float64, 1e200)])
def test_features_near_the_top_of_their_range(dtype: torch.dtype, size: float) -> None:
    unit = torch.nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(3), dtype=dtype))
    features = (unit * size).requires_grad_()
    loss = nearest_neighbor_entropy(features)
    assert loss.item() == pytest.approx(nearest_neighbor_entropy(unit).item(), rel=1e-5)
    loss.backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_groups_are_any_numbers() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    expected = nearest_neighbor_entropy(features, groups=[0, 0, 1, 1])
    assert nearest_neighbor_entropy(features, groups=[-1, -1, 3 * 10**9, 3 * 10**9]) == expected
    with pytest.raises(UserError, match=r"groups must have shape \(4,\), got \(3,\)"):
        nearest_neighbor_entropy(features, groups=[0, 0, 1])
