from __future__ import annotations

from ood_nc.collapse import METRICS as COLLAPSE
from ood_nc.report.glossary import Metric, metric
from ood_nc.scores import METRICS as DETECTION


def test_every_metric_of_ours_has_its_line() -> None:
    for name in (*COLLAPSE, *DETECTION):
        shown = metric(name)
        assert shown.meaning.endswith(".") and shown.label != name
        assert shown.unit in ("percent", "number", "correlation") and shown.better in ("higher", "lower", "")


def test_a_label_is_told_with_what_it_is_of_and_its_unit() -> None:
    assert metric("auroc") == Metric("AUROC", "percent", "higher", metric("auroc").meaning)
    assert metric("auroc").axis() == "AUROC, %" and metric("auroc").scale == 100
    assert metric("temperature").axis(" of the head") == "Temperature of the head" and metric("temperature").scale == 1


def test_a_metric_that_is_not_there_goes_by_its_own_name() -> None:
    assert metric("mine") == Metric("mine", "number", "", "")
    assert metric("fpr80_id_positive").unit == "percent"
