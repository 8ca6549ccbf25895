"""The probe by linear discriminant analysis against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ood_nc.arrays import as_tensor
from ood_nc.transfer import lda_probe
from ood_nc.transfer._closed_form import merge, moments_of
from ood_nc.transfer.lda import solve


@pytest.mark.parametrize("shrinkage", [1e-3, 0.1, 0.9])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_probabilities_are_those_of_scikit_learn(digits, shrinkage: float, offset: float) -> None:
    train, labels, test, _ = digits
    # Unequal classes, so that the priors count.
    keep = (labels != 3) | (np.arange(len(labels)) % 3 == 0)
    rows, classes = train[keep].astype(np.float64) + offset, labels[keep]
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows, classes)
    moments = moments_of(as_tensor(rows), as_tensor(classes), torch.arange(len(rows)), 10)
    weight, offsets = solve(moments)(shrinkage)
    queries = test.astype(np.float64) + offset
    found = ((torch.from_numpy(queries) - moments.mean) @ weight.T + offsets).softmax(dim=1)
    np.testing.assert_allclose(found, peer.predict_proba(queries), atol=1e-7)


def test_float32_features_give_the_same_classifier(digits) -> None:
    train, labels, test, test_labels = digits
    narrow, wide = (
        lda_probe(train.astype(dtype), labels, test.astype(dtype), test_labels) for dtype in (np.float32, np.float64)
    )
    assert narrow.selected == wide.selected and torch.equal(narrow.predictions, wide.predictions)
    assert narrow.accuracy > 0.92 and narrow.selected_on == "held out of train"


def test_moments_of_parts_are_those_of_all(digits) -> None:
    features, labels = torch.from_numpy(np.array(digits[0])).double(), torch.from_numpy(np.array(digits[1]))
    whole = moments_of(features, labels, torch.arange(len(features)), 10)
    parts = [moments_of(features, labels, indices, 10) for indices in torch.arange(len(features)).split(700)]
    for found, expected in zip(merge(*parts), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-8)
    gaps = features - whole.means[labels]
    torch.testing.assert_close(whole.within, gaps.T @ gaps, rtol=1e-10, atol=1e-8)
