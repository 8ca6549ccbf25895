"""What every loss must hold to: ``check_loss(my_loss)`` in the tests of a package that adds one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ood_nc.conformance import require, run_checks
from ood_nc.losses.registry import LOSSES, Batch, LossFunction

_ROWS, _DIM, _CLASSES = 24, 6, 3


def check_loss(loss: LossFunction | str) -> None:
    """Check a loss, or the registered one of that name: values, gradients, extremes, precision, order, state.

    Raises:
        CheckError: it breaks the protocol; the message says how.
        UserError: no loss of that name.

    Example:
        >>> check_loss("entropy")
    """
    run_checks(LOSSES, loss, (_check_value, _check_state, _check_order, _check_precision, _check_extremes))


def _batch(dtype: torch.dtype = torch.float64, *, soft: bool = False) -> tuple[torch.Tensor, Batch]:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(_ROWS, _DIM, generator=rng, dtype=torch.float64).to(dtype)
    logits = torch.randn(_ROWS, _CLASSES, generator=rng, dtype=torch.float64).to(dtype)
    labels = torch.arange(_ROWS) % _CLASSES
    targets = torch.nn.functional.one_hot(labels).mul(0.7).add(0.1).to(dtype) if soft else labels
    weight = torch.randn(_CLASSES, _DIM, generator=rng, dtype=torch.float64).to(dtype)
    outliers = torch.randn(_ROWS, _CLASSES, generator=rng, dtype=torch.float64).to(dtype)
    return features, Batch(logits, targets, head=(weight, weight[:, 0]), outliers=outliers)


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    assert batch.outliers is not None
    return batch._replace(logits=batch.logits[rows], targets=batch.targets[rows], outliers=batch.outliers[rows])


def _value(function: LossFunction, features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The value, and its gradient with respect to features, logits and outliers, side by side."""
    assert batch.outliers is not None
    leaves = [one.clone().requires_grad_() for one in (features, batch.logits, batch.outliers)]
    logits = leaves[1].clone()
    value = function(leaves[0], batch._replace(logits=logits, outliers=leaves[2]))
    batch.logits.copy_(logits.detach())  # what it did to its input shows there
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True) if value.requires_grad else (None,) * 3
    parts = [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]
    return value.detach(), torch.cat(parts, dim=1)


def _check_value(function: LossFunction, what: str) -> None:
    for soft in (False, True):
        features, batch = _batch(soft=soft)
        before = features.clone(), batch.logits.clone(), batch.targets.clone()
        value, gradient = _value(function, features, batch)
        kind = "soft targets" if soft else "class indices"
        require(value.shape == () and value.is_floating_point(), what, f"gives no scalar for {kind}")
        require(bool(value.isfinite()), what, f"gives {float(value)} for {kind}")
        require(
            bool(gradient.isfinite().all() and gradient.any()), what, f"has no finite, non-zero gradient for {kind}"
        )
        after = features, batch.logits, batch.targets
        require(all(map(torch.equal, before, after)), what, "changes its inputs")


def _check_order(function: LossFunction, what: str) -> None:
    features, batch = _batch()
    order = torch.randperm(_ROWS, generator=torch.Generator().manual_seed(1))
    value, gradient = _value(function, features, batch)
    shuffled, moved = _value(function, features[order], _rows(batch, order))
    same = torch.allclose(value, shuffled) and torch.allclose(gradient[order], moved)
    require(same, what, "depends on the order of the rows")


def _check_state(function: LossFunction, what: str) -> None:
    features, batch = _batch()
    state = torch.get_rng_state()
    first, second = (_value(function, features, batch)[0] for _ in range(2))
    require(bool(first == second), what, f"gives {float(first)} and then {float(second)} for one batch")
    require(torch.equal(state, torch.get_rng_state()), what, "draws from the global random state")


def _check_precision(function: LossFunction, what: str) -> None:
    exact = float(_value(function, *_batch())[0])
    for dtype in (torch.float16, torch.bfloat16):
        features, batch = _batch(dtype)
        with torch.autocast("cpu", dtype=dtype):
            value, _ = _value(function, features, batch)
        close = abs(float(value) - exact) <= 0.05 * max(1.0, abs(exact))
        require(close, what, f"gives {float(value)} in {dtype} under autocast, {exact} in float64")


def _check_extremes(function: LossFunction, what: str) -> None:
    features, batch = _batch(torch.float32)
    extremes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "rows that are all alike": lambda rows: rows[:1].expand_as(rows).clone(),
        "rows that are all 0": torch.zeros_like,
        "features of 1e-30": lambda rows: rows * 1e-30,
        "features of 1e30": lambda rows: rows * 1e30,
    }
    for case, change in extremes.items():
        value, gradient = _value(function, change(features), batch)
        finite = bool(value.isfinite() and gradient.isfinite().all())
        require(finite, what, f"or its gradient is not finite for {case}")
    value, gradient = _value(function, features[:1], _rows(batch, torch.arange(1)))
    require(bool(value.isfinite() and gradient.isfinite().all()), what, "is not finite for a batch of one")
