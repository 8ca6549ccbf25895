from __future__ import annotations

import numpy as np

from ood_nc.evaluation.histograms import BINS, histograms


def test_all_sets_share_their_edges_and_every_sample_is_counted_once() -> None:
    generator = np.random.default_rng(0)
    scores = {"id_test": generator.normal(3, 1, 500), "ood/textures": np.append(generator.normal(0, 1, 299), -1e9)}
    one, other = histograms("encoder", "energy", scores)
    assert (one["dataset"], other["dataset"]) == ("id_test", "textures")
    assert (one["tap"], one["detector"]) == ("encoder", "energy")
    assert one["edges"] == other["edges"] and len(one["edges"]) == BINS + 1 and len(one["counts"]) == BINS
    assert sum(one["counts"]) == 500 and sum(other["counts"]) == 300
    # One outlier does not squeeze the rest into a bin.
    assert one["edges"][0] > -10 and np.count_nonzero(one["counts"]) > 15
    inside = (scores["id_test"] >= one["edges"][20]) & (scores["id_test"] < one["edges"][21])
    assert one["counts"][20] == inside.sum()


def test_constant_infinite_and_missing_scores() -> None:
    (constant,) = histograms("encoder", "msp", {"id_test": np.ones(5)})
    assert sum(constant["counts"]) == 5 and constant["edges"][0] < 1 < constant["edges"][-1]
    one, _ = histograms("encoder", "msp", {"id_test": np.array([-np.inf, 0.0, 1.0, np.inf]), "ood/x": np.zeros(2)})
    assert sum(one["counts"]) == 4 and np.isfinite(one["edges"]).all()
    assert histograms("encoder", "msp", {"id_test": np.array([np.inf])}) == []
