from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from ood_nc.evaluation.curves import POINTS, roc_curves
from ood_nc.scores import fpr_at_tpr


def test_every_point_is_the_false_positive_rate_at_its_share_of_id() -> None:
    generator = np.random.default_rng(0)
    # Heavy ties on both sides.
    ids, oods = generator.normal(1, 1, 137).round(1), generator.normal(0, 1, 90).round(1)
    (found,) = roc_curves("encoder", "knn", {"id_test": ids, "ood/svhn": oods})
    assert found["dataset"] == "svhn" and len(found["id_accepted"]) == len(found["ood_accepted"]) == POINTS
    for share, accepted in zip(found["id_accepted"][1:], found["ood_accepted"][1:], strict=True):
        assert accepted == pytest.approx(fpr_at_tpr(ids, oods, tpr=share), abs=1e-6)
    false, true, _ = roc_curve(np.repeat([1, 0], [137, 90]), np.concatenate([ids, oods]), drop_intermediate=False)
    for share, accepted in zip(found["id_accepted"], found["ood_accepted"], strict=True):
        assert accepted == pytest.approx(false[true >= share - 1e-9].min(), abs=1e-6)


def test_what_has_no_curve_is_left_out() -> None:
    assert roc_curves("a", "b", {"id_test": np.array([np.nan]), "ood/x": np.ones(3)}) == []
    assert roc_curves("a", "b", {"id_test": np.ones(3), "ood/x": np.array([np.nan]), "ood/y": np.empty(0)}) == []
