from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.detectors.test_mc_dropout import features_of, head_of
from tests.detection.images import PROBLEMS, agreement_test, fitted, logits_of, peer, softmax


def oracle(problem, image, layers=None):
    network = copy.deepcopy(problem.network)
    loss = 0
    for probability in network(image[None])[0].softmax(dim=0):
        loss = loss - probability.log()
    loss.backward()
    norms = {name: float((parameter.grad**2).sum()) for name, parameter in network.named_parameters()}
    inside = [name for name in norms if layers is None or any(name.startswith(layer + ".") for layer in layers)]
    return sum(norms[name] for name in inside)


test_agreement = agreement_test("grad_uncertainty", oracle, {}, tolerance=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_head_alone_has_a_closed_form(problem):
    head = "head" if problem.name == "tiny" else "fc"
    scores = fitted("grad_uncertainty", problem, layers=(head,)).score(problem.queries)
    expected = []
    for image in problem.queries:
        probabilities = softmax(logits_of(problem.network, image))
        at_logits = np.sum((len(probabilities) * probabilities - 1) ** 2)
        has_bias = head_of(problem.network).bias is not None
        expected.append(at_logits * (np.sum(features_of(problem.network, image) ** 2) + has_bias))
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


@pytest.mark.parametrize("layers", [None, ("stage2", "head"), ("stage1.0",)])
def test_as_pytorch_ood(layers):
    problem = PROBLEMS[0]
    inside = tuple(f"{layer}." for layer in layers or ())
    theirs = peer("GradUncertainty")(problem.network, lambda name: layers is None or name.startswith(inside))
    ours = fitted("grad_uncertainty", problem, layers=layers).score(problem.queries)
    np.testing.assert_allclose(ours, -theirs.predict(problem.queries), rtol=1e-8)


def test_a_sure_prediction_keeps_its_gradient():
    # The logarithm of a probability that underflows: its gradient at the logits is still C p - 1.
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 3, bias=False))
    network[1].weight.data.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
    scores = create_detector("grad_uncertainty").fit(network).score(torch.tensor([[[[500.0]]]]))
    assert scores.item() == pytest.approx((2**2 + 1 + 1) * 500.0**2)


def test_layers_without_parameters():
    with pytest.raises(UserError, match="the chosen layers have no parameters"):
        fitted("grad_uncertainty", PROBLEMS[0], layers=("pool",)).score(PROBLEMS[0].queries)
    with pytest.raises(UserError, match="no layer 'sta'"):
        fitted("grad_uncertainty", PROBLEMS[0], layers=("sta",))
