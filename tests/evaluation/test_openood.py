from __future__ import annotations

import pytest

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, to_openood_csv
from tests.helpers.rows import accuracy_row, detection_row

METRICS = ("fpr95_ood_positive", "auroc", "aupr_in", "aupr_out")


def results() -> Results:
    rows = [accuracy_row("encoder", 0.95555, method="head"), accuracy_row("encoder", 0.1)]
    for name, group, values in (
        ("cifar100", "near", (0.5, 0.8, 0.7, 0.6)),
        ("svhn", "far", (0.123456, 0.9, 0.8, 0.7)),
        ("textures", "far", (0.2, 0.95, 0.9, 0.8)),
        ("cifar10c", "covariate", (0.9, 0.5, 0.5, 0.5)),
        ("mean", "far", (0.0, 0.0, 0.0, 0.0)),
        ("svhn (disjoint)", "far", (0.0, 0.0, 0.0, 0.0)),
    ):
        for metric, value in zip(METRICS, values, strict=True):
            rows.append(detection_row("encoder", name, value, group=group, metric=metric))
        # Never to be mixed up with the convention of the csv.
        rows.append(detection_row("encoder", name, 0.99, group=group, metric="fpr95_id_positive"))
    rows += [detection_row("encoder", "empty", None, metric=metric, reason="no images") for metric in METRICS]
    rows.append(detection_row("layer1", "svhn", 0.77, metric="auroc"))
    identity = {"taps": [{"name": "layer1"}, {"name": "encoder"}], "head_tap": "encoder"}
    return Results(rows=rows, identity=identity | {"detectors": ["msp", "energy"], "probes": ["linear"]})


def test_hand_computed_csv() -> None:
    assert to_openood_csv(results()).splitlines() == [
        "dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC",
        "cifar100,50.00,80.00,70.00,60.00,95.56",
        "nearood,50.00,80.00,70.00,60.00,95.56",
        "svhn,12.35,90.00,80.00,70.00,95.56",
        "textures,20.00,95.00,90.00,80.00,95.56",
        "empty,,,,,95.56",
        "farood,16.17,92.50,85.00,75.00,95.56",
    ]


def test_another_tap() -> None:
    assert to_openood_csv(results(), tap="layer1").splitlines()[1] == "svhn,,77.00,,,95.56"


def test_an_unknown_tap_or_detector_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"by vim on encoder; there are energy on encoder, energy on layer1"):
        to_openood_csv(results(), method="vim")


def test_a_run_without_detectors_is_one_line() -> None:
    none = results()
    none.identity["detectors"] = []
    none.rows = [row | {"group": "id"} for row in none.rows]
    with pytest.raises(UserError, match="OOD results of the run by any detector on encoder; there are none"):
        to_openood_csv(none)
