from __future__ import annotations

import pytest

from ood_nc.cli.multilabel import _show as show_label_sets
from ood_nc.cli.show import say, show_results
from ood_nc.evaluation import Results
from tests.helpers.rows import collapse_row, detection_row, transfer_row


def results() -> Results:
    rows = [collapse_row("encoder", 2.0), collapse_row("projector", 0.5, depth=1)]
    for tap, knn, energy in (("encoder", 0.1, 0.2), ("projector", 0.3, 0.4)):
        for method, value in (("knn", knn), ("energy", energy), ("vim", 0.0)):
            rows.append(detection_row(tap, "mean", value, group="ood", method=method))
        rows.append(transfer_row(tap, "mean", 0.75))
    taps = [{"name": "encoder", "depth": 0}, {"name": "projector", "depth": 1}]
    identity = {"run": "a", "taps": taps, "head_tap": "projector", "probes": ["linear"]}
    return Results(rows, identity | {"detectors": ["vim", "energy", "knn"]})


def test_the_table_shows_the_headline_and_no_detector_picked_on_the_test_sets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_results(results())
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if "│" in line}
    assert "vim" not in said and "best" not in said
    assert "0.300 *" in rows["projector"] and "0.400 *" in rows["projector"]
    assert "0.100" in rows["encoder"] and "0.100 *" not in rows["encoder"]
    assert "0.250 *" in rows["encoder"], "transfer error, not accuracy"


def test_a_mean_over_fewer_sets_than_the_others_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """One tap's mean was over the sets that were left, beside means over all, without a word."""
    found = results()
    for tap in ("encoder", "projector"):
        found.rows += [detection_row(tap, name, 0.2, method="knn") for name in ("far", "svhn")]
        found.rows.append(detection_row(tap, "other", 0.2, method="vim" if tap == "encoder" else "dice"))
    show_results(found)
    assert "are without" not in capsys.readouterr().out and "are without" not in found._repr_html_()
    found.rows[-2] = detection_row("projector", "svhn", None, method="knn", reason="it failed")
    show_results(found)
    assert capsys.readouterr().out.splitlines()[-1] == "the means of knn at projector are without svhn"
    assert "the means of knn at projector are without svhn" in found._repr_html_()


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OOD_NC_QUIET", "1")
    say("a line")
    show_results(results())
    assert capsys.readouterr().out == ""


def test_a_run_on_label_sets_tells_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [detection_row(tap, name, 0.2) for tap in ("encoder", "projector") for name in ("far", "svhn")][:3]
    show_label_sets(Results(rows, {"run": "a", "notes": ["a note"]}))
    assert capsys.readouterr().out.splitlines()[-2:] == ["the means of energy at projector are without svhn", "a note"]
