from __future__ import annotations

import pytest
import torch

from ood_nc import Detector
from ood_nc.deployment import Verdict
from tests.helpers.fakes import fake_pandas


def test_a_detector_says_what_it_is(fitted: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    said = repr(fitted)
    assert said.startswith("Detector(mahalanobis on encoder; accepts a score >= ") and len(said) < 160
    assert f"{fitted.threshold.samples} held-out ID images" in said
    assert "<td>mahalanobis</td><td>encoder</td>" in fitted._repr_html_()
    fake_pandas(monkeypatch)
    assert fitted.to_pandas()["tap"] == ["encoder"]


def test_autocast_of_the_caller_changes_no_score(fitted: Detector) -> None:
    images = torch.rand(3, *fitted.model.preprocessing["input_size"], generator=torch.Generator().manual_seed(0))
    want = fitted(images).scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fitted(images).scores, want)


def test_a_verdict_is_counted_and_a_row_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    given = torch.tensor([1.5, -2.0, float("nan")], dtype=torch.float64)
    names, errors = ("cat", "<b>dog</b>"), (None, None, "no such file")
    verdict = Verdict(given, given.abs() / 4, given > 0, torch.tensor([0, 1, -1]), names, errors)
    assert repr(verdict) == "Verdict(3 images: 1 accepted, 1 rejected, 1 unreadable)"
    text = verdict._repr_html_()
    assert "&lt;b&gt;dog" in text and "<td>no such file</td>" in text and text.count("<tr>") == 4
    fake_pandas(monkeypatch)
    frame = verdict.to_pandas()
    assert frame["accepted"] == [True, False, False] and frame["predicted"] == ["cat", "<b>dog</b>", ""]
    assert frame["score"][:2] == [1.5, -2.0]
    many = torch.arange(50.0, dtype=torch.float64)
    long = Verdict(many, many / 50, many > 5, torch.zeros(50, dtype=torch.int64))
    assert long._repr_html_().count("<tr>") == 21 and "the first 20" in long._repr_html_()
