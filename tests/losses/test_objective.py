"""The objective against the task losses written out, and its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Objective, nearest_neighbor_entropy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
HARD = torch.tensor([0, 1, 2, 3, 1, 0])
SOFT = torch.rand(6, 4, generator=GENERATOR, dtype=torch.float64).softmax(1)
FEATURES = torch.randn(6, 5, generator=GENERATOR, dtype=torch.float64)


def slow_cross_entropy(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> float:
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        top = max(row)
        log_sum = top + math.log(sum(math.exp(value - top) for value in row))
        for value, share in zip(row, wanted, strict=True):
            total -= (share * (1 - smoothing) + smoothing / len(row)) * (value - log_sum)
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_cross_entropy(smoothing: float, targets: torch.Tensor) -> None:
    loss, parts = Objective(smoothing=smoothing, entropy_weights={})(LOGITS, targets, {})
    shares = targets.numpy() if targets.ndim == 2 else np.eye(4)[targets]
    assert loss.item() == pytest.approx(slow_cross_entropy(LOGITS.numpy(), shares, smoothing), rel=1e-12)
    assert parts.keys() == {"task"}
    assert parts["task"] == loss


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_mse_ignores_smoothing(targets: torch.Tensor) -> None:
    loss, _ = Objective("mse", smoothing=0.1, entropy_weights={})(LOGITS, targets, {})
    shares = targets.numpy() if targets.ndim == 2 else np.eye(4)[targets]
    assert loss.item() == pytest.approx(((LOGITS.numpy() - shares) ** 2).mean(), rel=1e-12)


def test_entropy_terms_are_added_with_their_weights() -> None:
    taps = {"stage": FEATURES + 3, "encoder": FEATURES, "unused": torch.zeros(6, 2)}
    loss, parts = Objective(entropy_weights={"encoder": 0.05, "stage": 0.5, "unused": 0.0})(LOGITS, HARD, taps)
    assert list(parts) == ["task", "entropy/encoder", "entropy/stage"]
    assert parts["entropy/stage"] == nearest_neighbor_entropy(taps["stage"])
    expected = parts["task"] + 0.05 * parts["entropy/encoder"] + 0.5 * parts["entropy/stage"]
    torch.testing.assert_close(loss, expected)


def test_defaults_are_the_papers() -> None:
    objective = Objective()
    assert (objective.task, objective.smoothing, objective.entropy_weights) == (
        "cross_entropy",
        0.1,
        {"encoder": 0.05},
    )
    assert "encoder" in repr(objective)


def test_gradient_reaches_logits_and_taps_and_parts_are_detached() -> None:
    logits, features = LOGITS.clone().requires_grad_(), FEATURES.clone().requires_grad_()
    loss, parts = Objective()(logits, HARD, {"encoder": features}, groups=torch.arange(6) // 2)
    loss.backward()
    assert logits.grad.abs().sum() > 0 and features.grad.abs().sum() > 0
    assert not any(part.requires_grad for part in parts.values())
    alone = FEATURES.clone().requires_grad_()
    (0.05 * nearest_neighbor_entropy(alone, groups=torch.arange(6) // 2)).backward()
    torch.testing.assert_close(features.grad, alone.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("task", ["cross_entropy", "mse"])
def test_autocast_keeps_float32(dtype: torch.dtype, task: str) -> None:
    logits, features = LOGITS.to(dtype), FEATURES.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        loss, _ = Objective(task)(logits, SOFT.float(), {"encoder": features})
    assert loss.dtype == torch.float32
    exact, _ = Objective(task)(logits.double(), SOFT, {"encoder": features.double()})
    assert loss.item() == pytest.approx(exact.item(), abs=1e-5)


def test_compiles() -> None:
    objective = Objective()
    loss, _ = torch.compile(objective, backend="aot_eager", fullgraph=True)(LOGITS, HARD, {"encoder": FEATURES})
    torch.testing.assert_close(loss, objective(LOGITS, HARD, {"encoder": FEATURES})[0])


def test_missing_tap_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"No tap 'encoder'.*layer1, layer2"):
        Objective()(LOGITS, HARD, {"layer1": FEATURES, "layer2": FEATURES})
    with pytest.raises(UserError, match="has: none"):
        Objective()(LOGITS, HARD, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "hinge"}, "task must be"),
        ({"smoothing": 1.0}, "smoothing must be"),
        ({"entropy_scope": "batch"}, "entropy_scope must be"),
        ({"entropy_weights": {"encoder": math.nan}}, "'encoder' must be finite"),
    ],
)
def test_wrong_settings(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(**options)


@pytest.mark.parametrize("targets", [HARD[:3], SOFT[:, :2], HARD[:, None]])
def test_targets_that_do_not_fit(targets: torch.Tensor) -> None:
    with pytest.raises(UserError, match="do not fit logits"):
        Objective(entropy_weights={})(LOGITS, targets, {})
