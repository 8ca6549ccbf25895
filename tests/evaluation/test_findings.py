from __future__ import annotations

import numpy as np

from ood_nc.evaluation import evaluate
from ood_nc.evaluation.detection import Measured
from ood_nc.evaluation.findings import Found


def test_scores_that_tie_are_told_by_tap_detector_and_set() -> None:
    scores = {"id_test": np.ones(8), "id_val": np.ones(4), "ood/noise": np.arange(4.0), "ood/nan": np.full(20, np.nan)}
    found = Found()
    found.add("encoder", "msp", Measured([], scores | {"ood/far": np.arange(2.0, 20.0)}))
    (note,) = found.notes
    assert note.startswith("encoder, msp: on noise, 75 % of the 12 scores are shared by several samples (4 distinct)")


def test_a_bank_of_copies_is_told_by_its_tap() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    train = np.eye(2)[labels] + np.tile(generator.normal(size=(10, 2)), (10, 1)) / 10
    sets = {"id_train": train, "id_test": np.eye(2)[labels] + generator.normal(size=(100, 2)) / 10}
    features = {f"{name}/features": rows for name, rows in sets.items()} | {f"{name}/labels": labels for name in sets}
    features["far/noise/features"] = generator.normal(size=(30, 2))
    notes = evaluate(features=features, detectors=["knn"], probes=[], bootstrap=0).identity["notes"]
    assert any(
        note.startswith("features: of the ID train features, 80 % of the 100 rows repeat another") for note in notes
    )
    assert not any("shared by several" in note for note in notes)
