from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, alpha=1e-4):
    train, _, queries = problem.exact()
    mean = train.mean(axis=0)
    predicted = problem.logits(problem.queries).argmax(axis=1)
    return np.array(
        [
            problem.weight[y].astype(np.float64) @ (h - mean) / np.linalg.norm(h - mean) + alpha * np.abs(h).sum()
            for h, y in zip(queries, predicted, strict=True)
        ]
    )


test_agreement = agreement_test("nci", oracle, {}, {"alpha": 0.05}, {"alpha": 0.0})


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    theirs = peer("NCI")(None, head, alpha=0.01).fit_features(data["features"]).predict_features(data["queries"])
    np.testing.assert_allclose(scores_of(fitted("nci", problem, alpha=0.01), problem), -theirs, rtol=1e-4, atol=1e-5)


def test_the_mean_itself_scores_its_norm():
    rows = np.array([[1.0, 2], [3, 4]])
    detector = create_detector("nci", alpha=0.5).fit(rows, head=(np.eye(2), None))
    assert detector.score([[2.0, 3.0]]).tolist() == [2.5]


def test_alpha_out_of_range():
    with pytest.raises(UserError, match="'nci': alpha must be a number of at least 0, got -1"):
        create_detector("nci", alpha=-1)
