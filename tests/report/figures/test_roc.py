from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ood_nc.report.figures import plotly_figure
from ood_nc.report.figures.roc import roc


def run(curves: list[dict[str, Any]]) -> Any:
    identity = {"taps": [{"name": "encoder"}], "head_tap": "encoder", "detectors": ["knn", "energy"], "probes": []}
    return SimpleNamespace(name="a", identity=identity, roc=curves)


def curve(detector: str, dataset: str, tap: str = "encoder") -> dict[str, Any]:
    place = {"tap": tap, "detector": detector, "dataset": dataset}
    return {**place, "id_accepted": [0.0, 0.5, 1.0], "ood_accepted": [0.0, 0.125, 1.0]}


def test_a_panel_a_detector_of_the_headline_and_a_curve_a_set() -> None:
    curves = [curve("knn", "svhn"), curve("knn", "dtd"), curve("energy", "svhn"), curve("msp", "svhn")]
    figure = roc([run([*curves, curve("knn", "svhn", "stem")])])
    assert [panel.title for panel in figure.panels] == ["a: encoder, knn", "a: encoder, energy"]
    first, second = figure.panels[0].series
    assert (first.name, second.name) == ("svhn", "dtd") and first.color != second.color
    assert (first.x, first.y) == ([0.0, 12.5, 100.0], [0.0, 50.0, 100.0])
    assert len(plotly_figure(figure)["data"]) == 3


def test_runs_without_curves_have_no_such_figure() -> None:
    found = roc([run([])])
    assert not found.panels and found.missing is None
