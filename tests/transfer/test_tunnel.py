"""The tunnel-effect summaries against hand values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from ood_nc.errors import UserError
from ood_nc.transfer import id_ood_alignment, layer_correlation, retained_accuracy


def test_retained_accuracy() -> None:
    assert retained_accuracy([0.2, 0.8, 0.6]) == pytest.approx(75)
    assert retained_accuracy(np.array([0.2, 0.4])) == 100
    assert retained_accuracy([0.0, 0.0]) is None


def test_layer_correlation() -> None:
    id_curve, ood_curve = np.random.default_rng(0).random((2, 9))
    assert layer_correlation(id_curve, ood_curve) == pytest.approx(pearsonr(id_curve, ood_curve).statistic)
    assert layer_correlation([0.1, 0.2, 0.3], [0.9, 0.8, 0.7]) == pytest.approx(-1)
    assert layer_correlation([0.1, 0.2], [0.5, 0.5]) is None
    assert layer_correlation([0.1], [0.5]) is None


def test_id_ood_alignment() -> None:
    assert id_ood_alignment(0.9, 0.3, id_classes=10, ood_classes=100) == pytest.approx(0.8 * 0.29)
    assert id_ood_alignment(0.1, 0.3, id_classes=10, ood_classes=100) == pytest.approx(0)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="3 layers and ood_accuracies 2"):
        layer_correlation([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="one accuracy a layer"):
        retained_accuracy([])
    with pytest.raises(UserError, match="must be classes"):
        id_ood_alignment(0.5, 0.5, id_classes=0, ood_classes=2)
