"""The objective against the task losses written out, and its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import LOSSES, Objective, Term, nearest_neighbor_entropy

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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_class_weights_multiply_each_classes_part(smoothing: float, targets: torch.Tensor) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0, 1.5])
    loss, _ = Objective(smoothing=smoothing, entropy_weights={}, class_weights=weights)(LOGITS, targets, {})
    total = 0.0
    for row, wanted in zip(LOGITS.numpy(), targets.numpy() if targets.ndim == 2 else np.eye(4)[targets], strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for value, share, weight in zip(row, wanted, weights.tolist(), strict=True):
            total -= weight * (share * (1 - smoothing) + smoothing / 4) * (value - log_sum)
    assert loss.item() == pytest.approx(total / len(LOGITS), rel=1e-12)
    even = Objective(smoothing=smoothing, entropy_weights={}, class_weights=torch.ones(4))(LOGITS, targets, {})[0]
    assert even.item() == pytest.approx(
        slow_cross_entropy(LOGITS.numpy(), targets.numpy() if targets.ndim == 2 else np.eye(4)[targets], smoothing),
        rel=1e-12,
    )


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
    assert (objective.task, objective.smoothing) == ("cross_entropy", 0.1)
    assert objective.terms == (Term("entropy", "encoder", 0.05, {"scope": "global"}),)
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
        ({"task": "mse", "class_weights": torch.ones(4)}, "Class weights are of the cross-entropy"),
        ({"entropy_scope": "batch"}, "entropy_scope must be"),
        ({"entropy_weights": {"encoder": math.nan}}, "'encoder' must be finite"),
    ],
)
def test_wrong_settings(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(**options)


def length(features, batch, *, power=1.0):
    """Mean length of the rows, to a power."""
    return features.norm(dim=1).pow(power).mean()


@pytest.fixture
def with_length(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {"entropy": LOSSES["entropy"], "length": length})


def test_any_number_of_terms(with_length) -> None:
    taps = {"encoder": FEATURES, "stage": FEATURES + 3}
    terms = [Term("length", "stage", 0.5), Term("entropy", "stage", 2.0), Term("length", "encoder", 0.25, {"power": 2})]
    loss, parts = Objective(terms=[*terms, Term("length", "encoder", 0.0)])(LOGITS, HARD, taps)
    assert list(parts) == ["task", "entropy/encoder", "length/stage", "entropy/stage", "length/encoder"]
    lengths = {tap: np.sqrt((rows.numpy() ** 2).sum(1)) for tap, rows in taps.items()}
    assert parts["length/stage"].item() == pytest.approx(lengths["stage"].mean(), rel=1e-12)
    assert parts["length/encoder"].item() == pytest.approx((lengths["encoder"] ** 2).mean(), rel=1e-12)
    weights = (1, 0.05, 0.5, 2.0, 0.25)
    expected = sum(weight * part.item() for weight, part in zip(weights, parts.values(), strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_short_form_is_the_same_terms() -> None:
    taps = {"encoder": FEATURES}
    short = Objective(entropy_weights={"encoder": 0.3}, entropy_scope="device")
    long = Objective(entropy_weights={}, terms=[Term("entropy", "encoder", 0.3, {"scope": "device"})])
    assert short.terms == long.terms
    assert short(LOGITS, HARD, taps, groups=HARD)[0] == long(LOGITS, HARD, taps, groups=HARD)[0]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([Term("lenth", "encoder", 1.0)], r"Unknown loss 'lenth'\. Did you mean 'length'\? Known: entropy, length"),
        ([Term("length", "encoder", 1.0, {"powr": 2})], r"'powr'\. Did you mean 'power'"),
        ([Term("length", "encoder", 1.0, {"power": "2e0"})], r"power .* must be a number, got '2e0' \(YAML reads 1e-3"),
        ([Term("length", "encoder", math.inf)], "weight of the loss 'length' on the tap 'encoder' must be finite"),
        ([Term("entropy", "encoder", 1.0)], "'entropy' is there twice on the tap 'encoder'"),
    ],
)
def test_wrong_terms(with_length, terms: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(terms=terms)


@pytest.mark.parametrize("task", ["cross_entropy", "mse"])
@pytest.mark.parametrize("wrong", [-1, -100, 4, 255])
def test_labels_that_are_no_classes(task: str, wrong: int) -> None:
    targets = torch.tensor([0, 1, wrong, 3, 1, 0])
    with pytest.raises(UserError, match=f"^targets.*{wrong}"):
        Objective(task, entropy_weights={})(LOGITS, targets, {})


def test_an_empty_batch() -> None:
    with pytest.raises(UserError, match="The batch is empty"):
        Objective(entropy_weights={})(LOGITS[:0], HARD[:0], {})


@pytest.mark.parametrize("targets", [HARD[:3], SOFT[:, :2], HARD[:, None]])
def test_targets_that_do_not_fit(targets: torch.Tensor) -> None:
    with pytest.raises(UserError, match="do not fit logits"):
        Objective(entropy_weights={})(LOGITS, targets, {})


def test_a_steered_term_stays_and_follows_its_law() -> None:
    objective = Objective(entropy_weights={}, steered=[Term("entropy", "encoder", 0.0)])
    leaf = FEATURES.clone().requires_grad_()
    loss, parts = objective(LOGITS, HARD, {"encoder": leaf})
    assert loss == parts["task"] and parts["entropy/encoder"] == nearest_neighbor_entropy(FEATURES)
    assert not loss.requires_grad  # at weight 0 the term costs no backward pass
    objective.set_law("entropy", "encoder", lambda value: 2 * (value - 3))
    loss, parts = objective(LOGITS, HARD, {"encoder": leaf})
    value = parts["entropy/encoder"]
    torch.testing.assert_close(loss, parts["task"] + 2 * (value - 3) * value)
    (gradient,) = torch.autograd.grad(loss, leaf)
    (own,) = torch.autograd.grad(nearest_neighbor_entropy(leaf), leaf)
    torch.testing.assert_close(gradient, 2 * (value - 3) * own)  # that of (value - 3)^2
