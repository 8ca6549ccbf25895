from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def gradients(rows, prototypes, outlier, labels):
    """By autograd: of the cross-entropy of softmax(-distance) with respect to the outlier prototype, row by row."""
    found = []
    for row, label in zip(torch.tensor(rows), torch.tensor(labels), strict=True):
        free = torch.tensor(outlier, requires_grad=True)
        distances = torch.linalg.norm(row - torch.cat([torch.tensor(prototypes), free[None]]), dim=1)
        torch.nn.functional.cross_entropy(-distances, label).backward()
        found.append(free.grad.numpy())
    return np.stack(found)


def oracle(problem, prototype="mean"):
    train, labels, queries = problem.exact()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    logits = problem.logits(train)
    outlier = means.mean(axis=0)
    if prototype == "mixup":
        outlier = np.mean([(row + means[np.argsort(own)[-2]]) / 2 for row, own in zip(train, logits, strict=True)], 0)
    correct = logits.argmax(axis=1) == labels
    bank = gradients(train[correct], means, outlier, labels[correct])
    # The label of a query does not matter to this gradient.
    own = gradients(queries, means, outlier, np.zeros(len(queries), dtype=np.int64))
    return np.array([-np.linalg.norm(bank - gradient, axis=1).min() for gradient in own])


test_agreement = agreement_test("grood", oracle, {}, {"prototype": "mixup"})


def test_the_gradient_does_not_depend_on_the_label():
    problem = PROBLEMS[0]
    train, labels, queries = problem.exact()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(5)])
    zeros, fours = (gradients(queries, means, means.mean(axis=0), np.full(80, c)) for c in (0, 4))
    np.testing.assert_allclose(zeros, fours, rtol=1e-9)


def test_blocks_of_the_bank_change_nothing(monkeypatch):
    problem = PROBLEMS[0]
    detector = fitted("grood", problem)
    expected = scores_of(detector, problem)
    monkeypatch.setattr("ood_nc.detection.kit.densities.BLOCK", 70)
    np.testing.assert_allclose(scores_of(detector, problem), expected, rtol=1e-6, atol=1e-12)


def test_the_bank_is_a_seeded_subset_of_the_correct_samples():
    problem = PROBLEMS[0]
    correct = int((problem.logits(problem.features).argmax(axis=1) == problem.labels).sum())
    assert len(fitted("grood", problem).bank_) == correct
    first, again, other = (fitted("grood", problem, bank_size=20, seed=seed).bank_ for seed in (0, 0, 1))
    assert len(first) == 20
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_where_nothing_is_correct_all_samples_count():
    detector = create_detector("grood").fit(np.eye(2), [0, 1], logits=np.array([[0.0, 1], [1, 0]]))
    assert len(detector.bank_) == 2


@pytest.mark.parametrize("parameters", [{"prototype": "noise"}, {"bank_size": 0}, {"seed": None}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'grood': "):
        create_detector("grood", **parameters)
