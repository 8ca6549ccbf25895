from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection.kit import linalg, percentile, softmax

RNG = np.random.default_rng(0)
LARGE = {
    "normal": RNG.normal(size=(600, 200)),
    "post-ReLU": np.maximum(RNG.normal(size=(600, 200)), 0),
    "few values": RNG.integers(0, 3, size=(600, 200)).astype(float),
    "constant": np.full((600, 200), 7.0),
    "sorted": np.sort(RNG.exponential(size=120_000)).reshape(600, 200),
    "one far off": np.concatenate([np.zeros(119_999), [1e30]]).reshape(600, 200),
}
PERCENTS = (0, 0.001, 10, 49.99, 50, 65, 90, 99.9995, 100)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_percentile_is_numpys(name, dtype):
    values = torch.from_numpy(LARGE[name]).to(dtype)
    for percent in PERCENTS:
        expected = np.percentile(values.numpy().astype(np.float64), percent)
        assert percentile.percentile(values, percent) == pytest.approx(expected, rel=1e-12, abs=1e-300)
        assert percentile.percentile(values.T[::2].T, percent) == pytest.approx(
            np.percentile(values.numpy()[:, ::2].astype(np.float64), percent), rel=1e-12, abs=1e-300
        )


def test_percentile_of_few_and_of_narrow_entries():
    assert percentile.percentile(torch.tensor([[5.0]]), 90) == 5
    assert percentile.percentile(torch.tensor([[1.0, 2], [3, 4]]), 90) == pytest.approx(3.7)
    values = torch.from_numpy(LARGE["normal"]).bfloat16()
    assert percentile.percentile(values, 90) == pytest.approx(np.percentile(values.double().numpy(), 90))


def test_percentile_where_the_sample_misleads(monkeypatch):
    # A sample of the lowest entries alone brackets nothing; then all are looked at.
    monkeypatch.setattr(percentile, "_bracket", lambda values, rank: (-4.0, -3.9))
    values = torch.from_numpy(LARGE["normal"])
    assert percentile.percentile(values, 50) == pytest.approx(np.percentile(LARGE["normal"], 50), rel=1e-12)


def test_log_probabilities_against_extended_precision():
    logits = RNG.normal(size=(200, 7)) * 10 ** RNG.uniform(-1, 2, size=(200, 1))
    wide = logits.astype(np.longdouble)
    odds = np.exp(wide - wide.max(axis=1, keepdims=True))
    rest = np.stack([np.delete(odds, c, axis=1).sum(axis=1) for c in range(7)], axis=1)
    log_p, log_rest = softmax.log_probabilities(torch.from_numpy(logits))
    total = odds.sum(axis=1, keepdims=True)
    # 1 - p is 1 to the last digit for most, and p for some; both logarithms keep their own digits.
    np.testing.assert_allclose(log_rest.numpy()[odds == 1], np.log(rest / total)[odds == 1].astype(float), rtol=1e-12)
    np.testing.assert_allclose(log_p.numpy()[odds < 1], np.log(odds / total)[odds < 1].astype(float), rtol=1e-12)
    np.testing.assert_allclose(
        log_p.numpy()[odds == 1], -np.log1p(rest / odds)[odds == 1].astype(float), rtol=1e-12, atol=0
    )
    np.testing.assert_allclose(
        softmax.log_odds(torch.from_numpy(logits)), -np.log(rest[odds == 1]).astype(float), rtol=1e-12, atol=1e-14
    )


def test_a_single_class():
    log_p, log_rest = softmax.log_probabilities(torch.zeros(2, 1, dtype=torch.float64))
    assert (log_p == 0).all() and (log_rest == -torch.inf).all()
    assert torch.isfinite(softmax.log_odds(torch.zeros(2, 1, dtype=torch.float64))).all()


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_projection_norm_against_float64_in_several_chunks(offset, dtype, monkeypatch):
    monkeypatch.setattr(linalg, "CHUNK", 16)
    rows = torch.from_numpy(RNG.normal(size=(101, 12)) + min(offset, 1e4)).to(dtype)
    origin = torch.from_numpy(RNG.normal(size=12) + offset)
    basis = torch.linalg.qr(torch.from_numpy(RNG.normal(size=(12, 5)))).Q
    expected = ((rows.double() - origin) @ basis).norm(dim=1)
    np.testing.assert_allclose(linalg.projection_norm(rows, origin, basis), expected, rtol=1e-5)
    assert linalg.projection_norm(rows[:0], origin, basis).shape == (0,)


def test_projection_norm_of_rows_that_lie_almost_in_the_principal_subspace():
    basis = torch.linalg.qr(torch.from_numpy(RNG.normal(size=(12, 12)))).Q
    rows = (torch.from_numpy(RNG.normal(size=(50, 6))) @ basis[:, :6].T).float()
    origin = torch.zeros(12, dtype=torch.float64)
    np.testing.assert_allclose(
        linalg.projection_norm(rows, origin, basis[:, 6:]), (rows.double() @ basis[:, 6:]).norm(dim=1), rtol=1e-12
    )


@pytest.mark.parametrize("rank", [3, 6])
def test_head_origin_is_the_shortest_least_squares_solution(rank):
    weight = RNG.normal(size=(6, rank)) @ RNG.normal(size=(rank, 9))
    bias = RNG.normal(size=6)
    found = linalg.head_origin(torch.from_numpy(weight), torch.from_numpy(bias))
    np.testing.assert_allclose(found, -np.linalg.pinv(weight, rcond=1e-12) @ bias, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1), (torch.float32, 1), (torch.float32, 1e36)])
def test_near_mean_has_float32s_digits(dtype, scale):
    rows = (scale * (torch.randn(5000, 7, generator=torch.Generator().manual_seed(0)) + 3)).to(dtype)
    expected = rows.double().numpy().mean(axis=0)
    np.testing.assert_allclose(linalg.near_mean(rows).numpy(), expected, rtol=1e-7)
    np.testing.assert_array_equal(linalg.near_mean(rows.double()), linalg.row_mean(rows.double()))
