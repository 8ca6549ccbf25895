from __future__ import annotations

import pytest

from ood_nc.collapse import ClassStatistics, nc1_pinv, nc4_bias
from ood_nc.evaluation import Results
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments, bank, value


def test_collapse_is_that_of_the_features_with_the_stated_head(evaluated: Results, model: ControlledModel) -> None:
    given = arguments()
    train, test = bank(model, given["id_train"]), bank(model, given["id"])
    for split, found in (("id_train", train), ("id_test", test)):
        stats = ClassStatistics(5, model.tap_info["encoder"].dim).update(found.taps["encoder"], found.labels)
        assert value(evaluated, tap="encoder", dataset=split, metric="nc1_pinv") == pytest.approx(nc1_pinv(stats))
    stats = ClassStatistics(5, model.tap_info["projector"].dim).update(train.taps["projector"], train.labels)
    wanted = nc4_bias(stats, model.head_weight, model.head_bias)
    (row,) = evaluated.select(tap="projector", dataset="id_train", metric="nc4_bias")
    assert row["value"] == pytest.approx(wanted) and row["method"] == "head" and row["selected_on"] is None
    (row,) = evaluated.select(tap="encoder", dataset="id_train", metric="nc4_bias")
    assert row["method"] == "id_probe" and row["selected_on"] == "held out of train"
    assert evaluated.select(tap="encoder", dataset="id_train", metric="nc1_pinv")[0]["method"] is None
