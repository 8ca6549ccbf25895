from __future__ import annotations

import numpy as np

from ood_nc.evaluation.detection import Measured
from ood_nc.evaluation.findings import Found
from tests.helpers.rows import detection_row


def test_what_detectors_gave_is_gathered_by_set_and_column() -> None:
    found = Found()
    for name in ("knn", "energy"):
        scores = {"id_test": np.array([1.0]), "ood/x": np.array([0.0, 0.5])}
        found.add("encoder", name, Measured([detection_row("encoder", "x", 0.1, method=name)], scores))
    assert [row["method"] for row in found.rows] == ["knn", "energy"]
    assert set(found.columns) == {"id_test", "ood/x"}
    assert set(found.columns["ood/x"]) == {"score/encoder/knn", "score/encoder/energy"}
    assert found.columns["never"] == {}
