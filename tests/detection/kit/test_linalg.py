from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection.kit import percentile, softmax

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
