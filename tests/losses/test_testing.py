"""The conformance check passes ours, and each way of breaking the protocol fails it."""

from __future__ import annotations

import pytest
import torch

from ood_nc.conformance import CheckError
from ood_nc.losses import LOSSES, check_loss


@pytest.mark.parametrize("name", list(LOSSES))
def test_ours(name):
    check_loss(name)


def spread(features, batch):
    """Mean squared length."""
    return features.float().clamp(-1e15, 1e15).square().sum(1).mean()


def test_a_good_one():
    check_loss(spread)


def noisy(features, batch):
    """."""
    return spread(features, batch) + torch.rand(())


def of_the_first(features, batch):
    """."""
    return features[0].square().sum().clamp(max=1e30)


def in_place(features, batch):
    """."""
    batch.logits.mul_(2)
    return spread(features, batch)


def constant(features, batch):
    """."""
    return features.sum().detach()


def by_row(features, batch):
    """."""
    return features.square().sum(1)


def lengths(features, batch):
    """."""
    return features.norm(dim=1).log().mean()


def overflowing(features, batch):
    """."""
    return features.square().sum(1).mean()


def variance(features, batch):
    """."""
    return features.double().clamp(-1e3, 1e3).sub(features.mean(0)).square().sum() / (len(features) - 1)


def of_labels(features, batch):
    """."""
    return spread(features, batch) * batch.targets[:, None].shape[1] / batch.targets.float().sub(1).sum()


@pytest.mark.parametrize(
    ("loss", "seen"),
    [
        (noisy, "for one batch"),
        (of_the_first, "depends on the order of the rows"),
        (in_place, "changes its inputs"),
        (constant, "no finite, non-zero gradient"),
        (by_row, "gives no scalar"),
        (lengths, "not finite for rows that are all 0"),
        (overflowing, "not finite for features of 1e30"),
        (variance, "not finite for a batch of one"),
        (of_labels, "gives (inf|-inf|nan) for class indices"),
        (lambda features, batch: features.mean(), "has no docstring"),
    ],
)
def test_broken(loss, seen):
    with pytest.raises(CheckError, match=f"^Loss '.*' .*{seen}"):
        check_loss(loss)
