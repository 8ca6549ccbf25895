from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.detection.detectors.adascale import activation_ratio
from ood_nc.errors import UserError
from tests.detection.detectors.test_mc_dropout import features_of, head_of
from tests.detection.images import PROBLEMS, agreement_test


def shift_of(problem, image, shift_share, activation_share, shift_weight, pixel_share, epsilon):
    """Features of the image, and Q'."""
    network = problem.network
    leaf = image.clone().requires_grad_()
    network(leaf[None]).max().backward()
    network.zero_grad()
    gradient = leaf.grad.flatten().numpy()
    moved = image.flatten().numpy().copy()
    for place in np.argsort(np.abs(gradient), kind="stable")[: int(pixel_share * len(gradient))]:
        moved[place] += epsilon * np.sign(gradient[place])
    before = features_of(network, image)
    after = features_of(network, torch.from_numpy(moved.reshape(image.shape)))
    order = np.argsort(-before, kind="stable")
    shift = sum(abs(after[j] - before[j]) for j in order[: max(1, int(shift_share * len(before)))])
    correction = sum(max(after[j], 0) for j in order[: max(1, int(activation_share * len(before)))])
    return before, shift_weight * shift + correction


def oracle(
    problem,
    image,
    variant="activations",
    percentiles=(75.0, 85.0),
    shift_share=0.01,
    activation_share=0.05,
    shift_weight=10.0,
    pixel_share=0.05,
    epsilon=0.5,
):
    arguments = (shift_share, activation_share, shift_weight, pixel_share, epsilon)
    key = (problem.name, arguments)
    if key not in REFERENCE:
        REFERENCE[key] = [shift_of(problem, train, *arguments)[1] for train in problem.images]
    features, shift = shift_of(problem, image, *arguments)
    percentile = percentiles[0] + (1 - np.mean(np.array(REFERENCE[key]) <= shift)) * (percentiles[1] - percentiles[0])
    positive = np.sort(np.maximum(features, 0))[::-1]
    ratio = positive.sum() / positive[: len(positive) - round(len(positive) * percentile / 100)].sum()
    weight = head_of(problem.network).weight.detach().numpy()
    bias = 0 if head_of(problem.network).bias is None else head_of(problem.network).bias.detach().numpy()
    if variant == "logits":
        return logsumexp((weight @ features + bias) * ratio**2)
    return logsumexp(weight @ (features * np.exp(ratio)) + bias)


REFERENCE = {}

test_agreement = agreement_test(
    "adascale",
    oracle,
    {},
    {"variant": "logits", "percentiles": (20.0, 90.0)},
    {"shift_share": 0.3, "activation_share": 0.4, "shift_weight": 2.0, "pixel_share": 0.2, "epsilon": 0.1},
    tolerance=1e-8,
)


def test_ratio_by_hand():
    features = torch.tensor([[4.0, 3, 2, 1, 0], [-1, -2, -3, -4, -5], [5, 0, 0, 0, -5]])
    ratio = activation_ratio(features, torch.full((3,), 60.0))
    np.testing.assert_allclose(ratio, [10 / 7, 1, 1])
    np.testing.assert_allclose(activation_ratio(features, torch.tensor([99.9, 99.9, 99.9])), [10 / 4, 1, 1])


def test_the_bias_is_not_scaled():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    network[3].weight.data.zero_()
    scores = create_detector("adascale").fit(network, [torch.randn(9, 3, 2, 2)]).score(torch.randn(4, 3, 2, 2))
    np.testing.assert_allclose(scores, np.full(4, logsumexp(network[3].bias.detach().numpy())))


def test_labels_are_not_needed():
    problem = PROBLEMS[0]
    detectors = [
        create_detector("adascale").fit(problem.network, batches)
        for batches in (problem.batches(), [images for images, _ in problem.batches()])
    ]
    assert torch.equal(*(detector.score(problem.queries) for detector in detectors))


@pytest.mark.parametrize(
    "parameters",
    [
        {"percentiles": (85.0, 75.0)},
        {"percentiles": (0.0, 75.0)},
        {"percentiles": 80.0},
        {"variant": "both"},
        {"pixel_share": 0.0},
        {"epsilon": -0.1},
    ],
)
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'adascale': "):
        create_detector("adascale", **parameters)
