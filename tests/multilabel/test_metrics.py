"""Label-set metrics against loops over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.multilabel import joint_energy, label_thresholds, max_logit, nearest_by_label, score_label_sets


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    sets = (torch.rand(200, 6, generator=generator) < 0.3).long()
    sets[sets.sum(1) == 0, 2] = 1
    return torch.randn(200, 6, generator=generator, dtype=torch.float64) + sets, sets


def test_every_number_is_that_of_a_loop(images):
    logits, sets = images
    exact, iou, mass = [], [], []
    for row, labels in zip(logits.numpy(), sets.numpy(), strict=True):
        own = set(np.flatnonzero(labels))
        top = set(np.argsort(-row)[: len(own)])
        exact.append(own == top)
        iou.append(len(own & top) / len(own | top))
        mass.append((np.exp(row) / np.exp(row).sum())[list(own)].sum())
    precisions = []
    for k in range(6):
        order = np.argsort(-logits[:, k].numpy())
        hits = sets[order, k].numpy()
        precisions.append(np.mean([hits[: i + 1].mean() for i in np.flatnonzero(hits)]))
    found = score_label_sets(logits, sets)
    assert found.subset_accuracy == np.mean(exact)
    assert found.iou == pytest.approx(np.mean(iou)) and found.probability_mass == pytest.approx(np.mean(mass))
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))


def test_a_label_of_no_image_is_left_out_of_the_mean(images):
    logits, sets = images
    wider = torch.cat([logits, logits[:, :1]], dim=1), torch.cat([sets, torch.zeros(200, 1, dtype=torch.long)], dim=1)
    assert score_label_sets(*wider).mean_average_precision == score_label_sets(logits, sets).mean_average_precision
    alone = score_label_sets(torch.zeros(3, 1), torch.ones(3, 1))
    assert alone.mean_average_precision is None and alone.subset_accuracy == 1


@pytest.mark.parametrize(
    ("logits", "sets"),
    [
        (torch.full((2, 3), torch.nan), torch.ones(2, 3)),
        (torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]])),
        (torch.zeros(2, 3), torch.ones(2, 2)),
    ],
)
def test_what_tells_nothing_is_refused(logits, sets):
    """NaN would be the largest of all, and right everywhere."""
    with pytest.raises(UserError, match="need finite logits of their shape"):
        score_label_sets(logits, sets)


def test_a_label_without_training_images_is_as_no_label():
    generator = torch.Generator().manual_seed(0)
    train, queries = torch.randn(20, 4, generator=generator), torch.randn(3, 4, generator=generator)
    sets = torch.eye(3)[torch.arange(20) % 2]
    unknown, none = (
        nearest_by_label(train, sets, queries, told) for told in (torch.eye(3)[[2] * 3], torch.zeros(3, 3))
    )
    assert torch.equal(unknown, none) and bool((unknown < 0).all())
    beside = nearest_by_label(train, sets, queries, torch.tensor([[1, 0, 1]] * 3))
    assert torch.equal(beside, nearest_by_label(train, sets, queries, torch.tensor([[1, 0, 0]] * 3)))


def test_thresholds_miss_no_more_than_they_promise():
    """Over many draws of held-out images the mean miss rate on new ones is at most alpha, and not far below."""
    generator = torch.Generator().manual_seed(0)
    alpha, missed = 0.1, []
    new = torch.randn(4000, generator=generator)
    for _ in range(300):
        held_out = torch.randn(24, 1, generator=generator)
        (limit,) = label_thresholds(held_out, torch.ones(24, 1), alpha)
        missed.append(float((new < limit).double().mean()))
    assert 0.07 < np.mean(missed) <= alpha + 3 * np.std(missed) / np.sqrt(300)


def test_too_few_images_give_no_threshold():
    logits = torch.arange(9.0)[:, None]
    assert label_thresholds(logits[:8], torch.ones(8, 1), 0.1).item() == -np.inf
    assert label_thresholds(logits, torch.ones(9, 1), 0.1).item() == 0
    with pytest.raises(UserError, match="between 0 and 1"):
        label_thresholds(logits, torch.ones(9, 1), 0)
    with pytest.raises(UserError, match="do not fit"):
        label_thresholds(logits, torch.ones(8, 1), 0.1)


def test_energy_and_largest_logit_ignore_what_training_leaves_free(images):
    logits, _ = images
    shifted = logits + torch.randn(200, 1, dtype=torch.float64)
    for score in (joint_energy, max_logit):
        torch.testing.assert_close(score(shifted), score(logits))
        assert not torch.allclose(score(shifted, centered=False), score(logits, centered=False))
    torch.testing.assert_close(joint_energy(logits, centered=False), torch.log1p(logits.exp()).sum(1))


def test_nearest_by_label_is_a_loop_over_labels(images):
    _, sets = images
    generator = torch.Generator().manual_seed(1)
    train, queries = (torch.randn(n, 4, generator=generator) for n in (200, 20))
    wanted = (torch.rand(20, 6, generator=generator) < 0.4).long()
    found = nearest_by_label(train, sets, queries, wanted, k=3)
    unit = [
        rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
        for rows in (train, queries)
    ]
    for value, row, labels in zip(found, unit[1], wanted.numpy(), strict=True):
        labels = labels if labels.any() else np.ones_like(labels)
        each = []
        for k in np.flatnonzero(labels):
            each.append(np.sort(np.linalg.norm(unit[0][sets[:, k].numpy() == 1] - row, axis=1))[2])
        assert value.item() == pytest.approx(-np.mean(each))
