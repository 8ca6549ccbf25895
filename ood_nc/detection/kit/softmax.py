"""Softmax probabilities whose digits hold where the largest is within rounding of 1."""

from __future__ import annotations

import torch
from torch import Tensor

_NO_CLASS = -1e30


def log_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) of the softmax p of float64 logits (B, C), each (B, C).

    Both keep their digits where the largest p is within rounding of 1, because 1 - p of that class is summed from the
    others. With a single class, log(1 - p) is -inf.

    Example:
        >>> log_probabilities(torch.tensor([[0.0, -50.0]], dtype=torch.float64))[1][0, 0]
        tensor(-50., dtype=torch.float64)
    """
    top, others, is_top = _top_and_others(logits)
    total = torch.logaddexp(top, others)
    log_p = torch.where(is_top, -_softplus(others - top), logits - total)
    return log_p, torch.where(is_top, others - total, torch.log1p(-log_p.exp()))


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of the largest softmax probability p of float64 logits (B, C): (B,), of any size.

    Finite with a single class too, though p is 1 there.

    Example:
        >>> log_odds(torch.tensor([[400.0, 0.0, -5000.0]], dtype=torch.float64))
        tensor([400.], dtype=torch.float64)
    """
    top, others, _ = _top_and_others(logits)
    return (top - others.clamp_min(_NO_CLASS))[:, 0]


def _top_and_others(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logit (B, 1), the log-sum-exp of all but that (B, 1), and where the largest is (B, C)."""
    top, index = logits.max(dim=1, keepdim=True)
    is_top = index == torch.arange(logits.shape[1], device=logits.device)
    # Not logsumexp of what -inf is filled into: onnxruntime's is wrong where the first entry is -inf.
    second = logits.masked_fill(is_top, -torch.inf).amax(dim=1, keepdim=True).clamp_min(_NO_CLASS)
    others = second + (logits - second).exp().masked_fill(is_top, 0.0).sum(dim=1, keepdim=True).log()
    return top, others, is_top


def _softplus(values: Tensor) -> Tensor:
    return torch.log1p((-values.abs()).exp()) + values.clamp_min(0)
