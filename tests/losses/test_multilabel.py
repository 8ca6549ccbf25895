"""Multi-label losses against loops over images and labels, timm's and torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from ood_nc.errors import UserError
from ood_nc.losses import LOSSES, Batch, Objective, Term, asymmetric, feature_norm, focal, pick_all_label


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)
    sets = (torch.rand(20, 5, generator=generator) < 0.4).double()
    sets[sets.sum(1) == 0, 0] = 1
    return logits, sets


@pytest.mark.parametrize("variant", ["sum", "mean"])
def test_pick_all_label_is_a_sum_of_cross_entropies(batch, variant):
    logits, sets = batch
    total = 0.0
    for row, labels in zip(logits, sets, strict=True):
        own = [float(F.cross_entropy(row[None], torch.tensor([k]))) for k in labels.nonzero().flatten()]
        total += sum(own) / (len(own) if variant == "mean" else 1)
    assert float(pick_all_label(logits, sets, variant=variant)) == pytest.approx(total / len(logits))
    shifted = logits + torch.randn(20, 1, dtype=torch.float64)
    torch.testing.assert_close(*(pick_all_label(one, sets, variant=variant) for one in (shifted, logits)))


def test_of_one_label_it_is_the_cross_entropy(batch):
    logits, _ = batch
    labels = torch.arange(20) % 5
    for variant in ("sum", "mean"):
        value = LOSSES["pick_all_label"](logits, Batch(logits, labels), variant=variant)
        torch.testing.assert_close(value, F.cross_entropy(logits, labels))


def test_asymmetric_and_focal_are_those_of_others(batch):
    logits, sets = batch
    ours = asymmetric(logits, sets, gamma_positive=1.0, gamma_negative=4.0, margin=0.05)
    timms = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05)
    # One image at a time: whether a batch is summed or averaged depends on timm's version.
    theirs = torch.stack([timms(*row) for row in zip(logits.split(1), sets.split(1), strict=True)]).mean()
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=0)  # theirs is in float32
    reference = sigmoid_focal_loss(logits, sets, alpha=-1, gamma=2, reduction="sum") / len(logits)
    torch.testing.assert_close(focal(logits, sets), reference)
    plain = F.binary_cross_entropy_with_logits(logits, sets, reduction="sum") / len(logits)
    torch.testing.assert_close(LOSSES["binary_cross_entropy"](logits, Batch(logits, sets)), plain)


def test_far_logits_stay_finite():
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)
    sets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for loss in (pick_all_label, focal, asymmetric):
        value = loss(logits, sets)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and gradient.isfinite().all()


def test_exponents_below_one_have_no_infinite_slope():
    logits = torch.tensor([[-4.0, 120.0, 1.0]], requires_grad=True)
    sets = torch.tensor([[0.0, 1.0, 1.0]])
    for value in (focal(logits, sets, gamma=0.5), asymmetric(logits, sets, gamma_positive=0.5, gamma_negative=0.5)):
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all() and gradient[0, 2] < 0
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: focal(rows, sets.double().expand(4, 3), gamma=0.5), rows)


@pytest.mark.parametrize(
    "wrong", [{"gamma_positive": -1.0}, {"gamma_negative": -0.5}, {"margin": 1.0}, {"margin": -0.1}]
)
def test_exponents_and_margins_that_cannot_be_are_one_line(batch, wrong):
    with pytest.raises(UserError, match=r"exponents must be at least 0, and the margin in \[0, 1\), got"):
        asymmetric(*batch, **wrong)


def test_feature_norm_is_the_mean_squared_length():
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert float(feature_norm(rows, Batch(rows, torch.tensor([0, 1])))) == 13.0


def test_an_objective_of_terms_alone(batch):
    logits, sets = batch
    terms = [Term("pick_all_label", "encoder", 1.0, {"variant": "mean"}), Term("feature_norm", "encoder", 0.1)]
    objective = Objective("none", entropy_weights={}, terms=terms)
    loss, parts = objective(logits, sets, {"encoder": logits})
    assert set(parts) == {"task", "pick_all_label/encoder", "feature_norm/encoder"} and parts["task"] == 0
    expected = pick_all_label(logits, sets, variant="mean") + 0.1 * logits.square().sum(1).mean()
    torch.testing.assert_close(loss, expected)
    with pytest.raises(UserError, match="task 'none' needs a term"):
        Objective("none", entropy_weights={})


def test_what_does_not_fit_is_one_line(batch):
    logits, sets = batch
    with pytest.raises(UserError, match="An image has no label"):
        pick_all_label(logits, 0 * sets)
    with pytest.raises(UserError, match=r"label sets of shape \(20, 4\) do not fit logits \(20, 5\)"):
        asymmetric(logits, sets[:, :4])
    with pytest.raises(UserError, match="variant must be 'sum' or 'mean'"):
        pick_all_label(logits, sets, variant="max")
    assert math.isfinite(float(asymmetric(logits, 0 * sets)))
