"""One block of samples with soft labels, folded into class statistics with positive terms only."""

from __future__ import annotations

import torch


def soft_scatter(
    block: torch.Tensor, soft: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split the scatter of a softly labelled block into a part of its rows and a part of its class means.

    With t_ic the labels, w_i their sum, b_c the class means of the block and m_i = sum_c t_ic b_c / w_i, the scatter
    sum_ic t_ic (h_i - b_c)(h_i - b_c)' equals sum_i w_i (h_i - m_i)(h_i - m_i)' + sum_{c<k} a_ck D_ck with
    a_ck = sum_i t_ic t_ik / w_i and D_ck = (b_c - b_k)(b_c - b_k)'. Hard labels make every a_ck zero.

    Args:
        block: (n, d), float64.
        soft: (n, C), float64, not negative.

    Returns:
        mass (C,); class means (C, d); scatter of each class (C,); rows sqrt(w_i) (h_i - m_i) (n, d); the mixture
        t_ic / w_i (n, C), for `laplacian`.
    """
    tiny = torch.finfo(torch.float64).tiny
    mass, weight = soft.sum(dim=0), soft.sum(dim=1)
    origin = block.mean(dim=0)
    means = soft.T @ (block - origin) / mass.clamp_min(tiny)[:, None] + origin
    mixture = soft / weight.clamp_min(tiny)[:, None]
    rows = (block - origin - mixture @ (means - origin)) * weight.sqrt()[:, None]
    # The differences are formed before they are squared: classes that have collapsed keep their digits.
    distances = torch.cdist(block, means, compute_mode="donot_use_mm_for_euclid_dist")
    return mass, means, (soft * distances.square()).sum(dim=0), rows, mixture


def laplacian(soft: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """The Laplacian L (C, C) of the a_ck of `soft_scatter`: its second part is B' L B for means B around any origin."""
    shared = soft.T @ mixture
    shared.fill_diagonal_(0)
    return torch.diag(shared.sum(dim=1)) - shared
