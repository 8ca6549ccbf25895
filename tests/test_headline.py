from __future__ import annotations

from typing import Any

import pytest

from ood_nc.headline import HEADLINE_RULE, headline

TAPS = [{"name": "stem"}, {"name": "encoder"}, {"name": "projector"}]


def identity(**changes: Any) -> dict[str, Any]:
    known = {"taps": TAPS, "head_tap": "projector", "detectors": ["msp", "energy", "knn"], "probes": ["knn", "linear"]}
    return {**known, **changes}


def test_the_tap_is_what_the_head_reads_and_transfer_is_from_the_encoder() -> None:
    found = headline(identity())
    assert (found.detection_tap, found.transfer_tap) == ("projector", "encoder")
    assert (found.detectors, found.probe) == (("knn", "energy"), "linear")
    assert headline(identity(taps=TAPS[:2], head_tap="encoder")).detection_tap == "encoder"
    assert headline(identity(taps=TAPS[:1], head_tap=None)).transfer_tap == "stem"


@pytest.mark.parametrize(
    ("named", "chosen"),
    [(["energy", "vim"], ("energy",)), (["vim", "knn"], ("knn",)), (["vim", "msp"], ("vim",)), ([], ())],
)
def test_what_did_not_run_gives_way_to_what_was_named_first(named: list[str], chosen: tuple[str, ...]) -> None:
    assert headline(identity(detectors=named)).detectors == chosen


def test_no_probe() -> None:
    assert headline(identity(probes=[])).probe is None
    assert headline(identity(probes=["nearest_mean"])).probe == "nearest_mean"


def test_a_tap_measured_under_another_name_is_named_by_it() -> None:
    taps = [{"name": "stem"}, {"name": "projector", "aliases": ["encoder"]}]
    assert headline(identity(taps=taps)).transfer_tap == "projector"


def test_the_rule_names_what_it_chooses() -> None:
    assert all(word in HEADLINE_RULE for word in ("knn", "energy", "encoder", "projector", "linear"))
