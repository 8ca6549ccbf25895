"""Detectors that read images, through the whole network."""

from __future__ import annotations

import numpy as np
import pytest

from ood_nc.data import eval_transform
from ood_nc.detection import create_detector
from ood_nc.models import ControlledModel
from ood_nc.scores import auroc
from tests.helpers.tiny import (
    arguments,
    run_few,
)


def test_input_detectors_run_when_named(model: ControlledModel) -> None:
    found = run_few(model, detectors=["energy", "odin"])
    given = arguments()
    transform = eval_transform(model.preprocessing)
    detector = create_detector("odin").fit(model)
    scores = []
    for dataset in (given["id"], given["ood"]["digits"]):
        items = dataset.with_transform(transform)
        scores.append([float(detector.score(items[index][0][None])) for index in range(len(items))])
    (row,) = found.select(method="odin", metric="auroc", dataset="digits")
    assert row["value"] == pytest.approx(auroc(*map(np.array, scores)), abs=1e-9)
    assert row["tap"] == model.head_tap
