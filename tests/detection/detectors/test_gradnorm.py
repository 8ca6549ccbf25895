from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, temperature=1.0):
    weight = torch.from_numpy(problem.weight).double().requires_grad_()
    bias, scores = torch.from_numpy(problem.bias).double(), []
    for feature in torch.from_numpy(problem.queries).double():
        log_p = ((weight @ feature + bias) / temperature).log_softmax(dim=0)
        divergence = torch.nn.functional.kl_div(log_p, torch.full_like(log_p, 1 / len(log_p)), reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, weight)
        scores.append(float(gradient.abs().sum()))
    return np.array(scores)


test_agreement = agreement_test("gradnorm", oracle, {}, {"temperature": 3.0})


def test_as_pytorch_ood_on_the_weight():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    theirs = -peer("GradNorm")(head, param_filter=lambda name: name == "weight").predict(data["queries"])
    np.testing.assert_allclose(scores_of(fitted("gradnorm", problem), problem), theirs, rtol=1e-4)


def test_without_fit_and_with_logits_alone_for_the_head():
    score = create_detector("gradnorm").score([[1.0, -2, 3]], logits=[[np.log(3.0), 0.0]])
    assert score.item() == pytest.approx(6 * 0.5)


def test_temperature_out_of_range():
    with pytest.raises(UserError, match="'gradnorm': temperature must be a number above 0"):
        create_detector("gradnorm", temperature=0)
