"""The ridge probe against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from ood_nc.arrays import as_tensor
from ood_nc.errors import UserError
from ood_nc.transfer import ridge_probe
from ood_nc.transfer._closed_form import moments_of
from ood_nc.transfer.ridge import solve
from tests.helpers.samples import clusters


@pytest.mark.parametrize("penalty", [1e-4, 1e-1, 10.0])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_coefficients_are_those_of_scikit_learn(digits, penalty: float, offset: float) -> None:
    train, labels, test, _ = digits
    rows = train.astype(np.float64) + offset
    alpha = penalty * len(rows) * rows.var(axis=0).mean()
    peer = RidgeClassifier(alpha=alpha, solver="cholesky").fit(rows, labels)
    moments = moments_of(as_tensor(rows), as_tensor(labels), torch.arange(len(rows)), 10)
    weight, offsets = solve(moments)(penalty)
    logits = (torch.from_numpy(test.astype(np.float64) + offset) - moments.mean) @ weight.T + offsets
    np.testing.assert_allclose(weight, peer.coef_, rtol=1e-7, atol=1e-9 * np.abs(peer.coef_).max())
    np.testing.assert_allclose(logits, peer.decision_function(test + np.float64(offset)), atol=1e-7)


def test_float32_features_give_the_same_classifier(digits) -> None:
    train, labels, test, test_labels = digits
    narrow, wide = (
        ridge_probe(train.astype(dtype), labels, test.astype(dtype), test_labels) for dtype in (np.float32, np.float64)
    )
    assert narrow.selected == wide.selected and torch.equal(narrow.predictions, wide.predictions)
    assert narrow.selected_on == "held out of train"


def test_the_penalty_is_the_best_on_what_is_held_out(digits) -> None:
    train, labels, test, test_labels = digits
    chosen = ridge_probe(train, labels, test, test_labels)
    assert chosen.accuracy > 0.92
    alone = [ridge_probe(train, labels, test, test_labels, penalties=[penalty]) for penalty in (1e-5, 1e-2, 10.0)]
    assert chosen.selected["held_out_accuracy"] >= max(one.selected["held_out_accuracy"] for one in alone)
    # On what is held out all are right, and the simplest is taken.
    rows, classes = clusters(40, 3, 2, 0.01, seed=0)
    assert ridge_probe(rows, classes, rows, classes).selected == {"penalty": 10.0, "held_out_accuracy": 1.0}


def test_one_sample_a_class_and_one_class() -> None:
    result = ridge_probe([[0.0], [5.0], [9.0]], [0, 3, 7], [[0.5], [8.0]], [0, 7])
    assert result.predictions.tolist() == [0, 7] and result.selected_on is None and result.selected == {"penalty": 0.01}
    with pytest.raises(UserError, match="needs two classes, train_labels holds only class 4"):
        ridge_probe([[0.0], [1.0]], [4, 4], [[0.0]], [4])
    with pytest.raises(UserError, match="The penalty must be chosen from at least one value"):
        ridge_probe([[0.0], [1.0]], [0, 1], [[0.0]], [0], penalties=[])
