from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, agreement_test, fitted, peer, residual, softmax


def head_of(network):
    return network.head if hasattr(network, "head") else network.fc


def features_of(network, image):
    kept = []
    handle = head_of(network).register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0][0]))
    with torch.no_grad():
        network(image[None])
    handle.remove()
    return kept[0].numpy()


def masks_of(width, p=0.5, passes=5, seed=0):
    drawn = torch.rand(passes, width, generator=torch.Generator().manual_seed(seed))
    return np.where(drawn.numpy() < p, 0.0, 1 / (1 - p))


def oracle(problem, image, statistic="probability", **drawing):
    head, features = head_of(problem.network), features_of(problem.network, image)
    weight = head.weight.detach().numpy()
    bias = 0 if head.bias is None else head.bias.detach().numpy()
    draws = [softmax(weight @ (features * mask) + bias) for mask in masks_of(len(features), **drawing)]
    if statistic == "variance":
        return -np.mean([np.var([draw[c] for draw in draws], ddof=1) for c in range(len(weight))])
    return np.mean(draws, axis=0).max()


test_agreement = agreement_test(
    "mc_dropout",
    oracle,
    {},
    {"p": 0.2, "passes": 30, "seed": 3},
    {"statistic": "variance", "passes": 7},
    tolerance=1e-9,
)


class WithMasks(nn.Module):
    """The network with fixed masks in front of its head, one a pass, while it trains: what pytorch-ood runs."""

    def __init__(self, network, masks):
        super().__init__()
        self.network, self.masks, self.passes = network, torch.from_numpy(masks), 0
        head_of(network).register_forward_pre_hook(self.drop)

    def drop(self, module, arguments):
        if not self.training:
            return arguments
        self.passes += 1
        return (arguments[0] * self.masks[self.passes - 1],)

    def forward(self, images):
        return self.network(images)


@pytest.mark.parametrize(("statistic", "mode"), [("probability", "mean"), ("variance", "var")])
def test_as_pytorch_ood(statistic, mode):
    problem = residual()
    ours = fitted("mc_dropout", problem, statistic=statistic, passes=6).score(problem.queries)
    masked = WithMasks(problem.network, masks_of(10, passes=6)).eval()
    theirs = peer("MCD")(masked, samples=6, mode=mode).predict(problem.queries)
    # Their mean adds up in float32.
    np.testing.assert_allclose(ours, -theirs, rtol=1e-6)


@pytest.mark.slow
def test_masks_are_dropout():
    problem = PROBLEMS[1]
    scores = fitted("mc_dropout", problem, p=0.3, passes=20000).score(problem.queries).numpy()
    rng, expected = np.random.default_rng(0), []
    weight = problem.network.fc.weight.detach().numpy()
    for image in problem.queries:
        masks = (rng.random((20000, 10)) >= 0.3) / 0.7
        logits = (masks * features_of(problem.network, image)) @ weight.T
        expected.append(np.mean([softmax(row) for row in logits], axis=0).max())
    np.testing.assert_allclose(scores, expected, atol=0.02)


def test_the_networks_own_dropout_stays_off():
    # The tiny network has a dropout layer of its own; with nearly no share dropped the score is the plain softmax.
    problem = PROBLEMS[0]
    scores = fitted("mc_dropout", problem, p=1e-9).score(problem.queries)
    with torch.no_grad():
        expected = problem.network(problem.queries).softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_without_a_linear_head():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(dim=1))
    with pytest.raises(UserError, match="no head to read"):
        create_detector("mc_dropout").fit(network).score(torch.zeros(2, 3, 2, 2))


@pytest.mark.parametrize(
    "parameters",
    [{"p": 0.0}, {"p": 1.0}, {"passes": 0}, {"statistic": "entropy"}, {"statistic": "variance", "passes": 1}],
)
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'mc_dropout': "):
        create_detector("mc_dropout", **parameters)
