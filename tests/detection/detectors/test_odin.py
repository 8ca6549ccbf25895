from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, agreement_test, fitted, logits_of, peer, softmax


def log_probability_gradient(network, image, temperature):
    """Gradient of log S_y(x; T) by the image, by autograd on one image, y the prediction."""
    leaf = image.clone().requires_grad_()
    logits = network(leaf[None])[0] / temperature
    (logits.max() - logits.exp().sum().log()).backward()
    network.zero_grad()
    return leaf.grad


def oracle(problem, image, temperature=1000.0, epsilon=0.0014, std=None):
    sign = torch.sign(log_probability_gradient(problem.network, image, temperature))
    if std is not None:
        sign = torch.stack([sign[channel] / std[channel] for channel in range(3)])
    return softmax(logits_of(problem.network, image + epsilon * sign) / temperature).max()


test_agreement = agreement_test(
    "odin",
    oracle,
    {},
    {"temperature": 1.0, "epsilon": 0.1},
    {"temperature": 10.0, "epsilon": 0.05, "std": (0.2, 0.5, 1.0)},
    tolerance=1e-10,
)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("std", [None, [0.2, 0.5, 1.0]])
def test_as_pytorch_ood(problem, std):
    for temperature in (1000.0, 2.0):
        theirs = peer("ODIN")(problem.network, temperature=temperature, eps=0.02, norm_std=std)
        ours = fitted("odin", problem, temperature=temperature, epsilon=0.02, std=std)
        np.testing.assert_allclose(ours.score(problem.queries), -theirs.predict(problem.queries), rtol=1e-9)


def test_no_step_is_the_softmax_at_that_temperature():
    problem = PROBLEMS[0]
    scores = fitted("odin", problem, epsilon=0.0, temperature=2.0).score(problem.queries)
    expected = [softmax(logits_of(problem.network, image) / 2).max() for image in problem.queries]
    np.testing.assert_allclose(scores, expected, rtol=1e-10)


def test_the_step_raises_the_score():
    problem = PROBLEMS[0]
    before, after = (
        fitted("odin", problem, temperature=1.0, epsilon=size).score(problem.queries) for size in (0, 1e-4)
    )
    assert (after > before).all()


def test_half_precision_does_not_lose_the_gradient():
    # At T = 1000 the gradient of the loss itself is below what float16 can hold.
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).half()
    network[1].weight.data.copy_(1e-3 * torch.tensor([[1.0, -1.0, 2.0, 1.0], [-1.0, 1.0, 1.0, -2.0]]))
    network[1].bias.data.zero_()
    images = torch.ones(1, 4, dtype=torch.float16)
    moved, still = (create_detector("odin", epsilon=size).fit(network).score(images) for size in (0.5, 0.0))
    assert (moved > still).all()


def test_std_of_other_channels():
    with pytest.raises(UserError, match="std has 2 channels, the images have 3"):
        fitted("odin", PROBLEMS[0], std=(0.5, 0.5)).score(PROBLEMS[0].queries)


@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"epsilon": -1.0}, {"std": (0.5, 0.0)}, {"std": ()}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'odin': "):
        create_detector("odin", **parameters)
