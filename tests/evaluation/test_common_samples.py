from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation.common_samples import ID, CommonSamples
from ood_nc.evaluation.scores_table import Samples, read_samples, scores_table
from ood_nc.scores import auroc, fpr_at_tpr

OOD, KNN = ("ood", "x"), "score/e/knn"


def run(ids: str, oods: str, seed: int = 0) -> Samples:
    """Each image has its own score, whatever else is in the run."""
    scores = dict(zip("abcdefgxyz", np.random.default_rng(seed).normal(size=10), strict=True))
    sets = [("id", "id_test", tuple(ids)), ("far", "x", tuple(oods))]
    return read_samples(scores_table([(*one, {KNN: np.array([scores[name] for name in one[2]])}) for one in sets]))


def test_every_run_is_read_on_the_common_images_in_the_order_of_the_first() -> None:
    first, second, third = run("abcd", "xyz"), run("dzcab", "zx"), run("acdb", "xyza")
    common = CommonSamples([first, second, third], replicates=0, seed=0)
    assert common.ids == {ID: ["a", "b", "c", "d"], OOD: ["x", "z"]}
    for place in range(3):
        assert common.column(place, ID, KNN).tolist() == first.get(ID, KNN).tolist()
    assert common.column(1, OOD, KNN).tolist() == common.column(0, OOD, KNN).tolist()
    assert common.column(0, OOD, "score/e/absent") is None and common.column(0, ("ood", "absent"), KNN) is None


def test_a_set_without_a_common_image_is_none() -> None:
    common = CommonSamples([run("ab", "xy"), run("ab", "z")], replicates=0, seed=0)
    assert list(common.ids) == [ID] and common.detection(0, KNN) == {}


def test_metrics_are_those_of_the_common_images_and_of_the_drawn_ones() -> None:
    common = CommonSamples([run("abcdefg", "xyz"), run("gfedcba", "zyx")], replicates=40, seed=3)
    found = common.detection(1, KNN)[OOD]
    inside, outside = common.column(1, ID, KNN), common.column(1, OOD, KNN)
    for metric, by_hand in (("auroc", auroc), ("fpr95_id_positive", fpr_at_tpr)):
        assert found[metric][0] == pytest.approx(by_hand(inside, outside))
        for place in (1, 40):
            drawn = [np.repeat(scores, common.counts[one][place - 1]) for scores, one in ((inside, ID), (outside, OOD))]
            assert found[metric][place] == pytest.approx(by_hand(*drawn))
