from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.transfer import VIT_PROBE, PaperSettings, paper_probe


def _task(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(4, 12))
    labels = np.arange(600) % 4
    features = centres[labels] + 1.2 * generator.normal(size=(600, 12))
    tensors = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    return tensors[0][:400], tensors[1][:400], tensors[0][400:], tensors[1][400:]


def _by_hand(task: tuple[torch.Tensor, ...], rate: float, decay: float, size: int, seed: int) -> tuple[np.ndarray, ...]:
    """AdamW on the smoothed cross-entropy, in NumPy and float64, from the same start and in the same order."""
    x, y, test, wanted = (part.double().numpy() for part in task)
    generator = torch.Generator().manual_seed(seed)
    bound = x.shape[1] ** -0.5
    w, b = ((2 * torch.rand(shape, generator=generator) - 1).double().numpy() * bound for shape in ((4, 12), (4,)))
    state = [np.zeros_like(part) for part in (w, w, b, b)]
    step, best = 0, 0.0
    for _ in range(30):
        order = torch.randperm(len(x), generator=generator).numpy()
        for rows in (order[i : i + size] for i in range(0, len(x), size)):
            logits = x[rows] @ w.T + b
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            error = (share - 0.9 * np.eye(4)[y[rows].astype(int)] - 0.1 / 4) / len(rows)
            step += 1
            for part, slope, i in ((w, error.T @ x[rows], 0), (b, error.sum(axis=0), 2)):
                part *= 1 - rate * decay
                state[i] = 0.9 * state[i] + 0.1 * slope
                state[i + 1] = 0.999 * state[i + 1] + 0.001 * slope**2
                part -= rate * (state[i] / (1 - 0.9**step)) / (np.sqrt(state[i + 1] / (1 - 0.999**step)) + 1e-8)
        best = max(best, float(np.mean((test @ w.T + b).argmax(axis=1) == wanted)))
    return w, b, np.array(best)


@pytest.mark.parametrize(
    ("settings", "numbers"), [(PaperSettings(), (1e-3, 0.0, 256)), (VIT_PROBE, (0.01, 1e-4, 2048))]
)
def test_it_is_the_published_probe(settings: PaperSettings, numbers: tuple[float, float, int]) -> None:
    task = _task()
    found = paper_probe(*task, settings=settings, seed=5)
    weight, bias, best = _by_hand(task, *numbers, seed=5)
    assert found.weight is not None
    assert found.bias is not None
    np.testing.assert_allclose(found.weight.numpy(), weight, atol=2e-5)
    np.testing.assert_allclose(found.bias.numpy(), bias, atol=2e-5)
    assert found.accuracy == pytest.approx(best)
    assert found.selected_on == "test split (the best epoch)"


def test_it_starts_as_torchs_linear_map() -> None:
    task = _task()
    found = paper_probe(*task, settings=PaperSettings(learning_rate=0.0, epochs=1))
    torch.manual_seed(0)
    like = nn.Linear(12, 4)
    assert found.weight is not None
    assert found.weight.abs().max() <= like.weight.abs().max().clamp(min=12**-0.5)
    assert found.weight.std().item() == pytest.approx(12**-0.5 / 3**0.5, rel=0.2)


def test_the_seed_alone_decides() -> None:
    task = _task()
    before = torch.random.get_rng_state()
    first, second, other = (paper_probe(*task, seed=seed).weight for seed in (1, 1, 2))
    assert first is not None
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_class_is_refused() -> None:
    train, labels, test, wanted = _task()
    with pytest.raises(UserError, match="two classes"):
        paper_probe(train, torch.zeros_like(labels), test, torch.zeros_like(wanted))
