from __future__ import annotations

from typing import Any

import pytest

from ood_nc.detection import list_detectors
from ood_nc.errors import UserError
from ood_nc.evaluation.names import check_names, check_numbers


def test_globs_name_detectors() -> None:
    assert check_names(["ma*", "energy", "max_logit"], []) == ["mahalanobis", "max_cosine", "max_logit", "energy"]
    # A glob never asks for a detector that goes over every image again; its name in full does.
    assert set(list_detectors(kind="input")).isdisjoint(check_names(["*"], []))
    assert check_names(["odin"], []) == ["odin"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"detectors": ["enrgy"]}, "No detector matches 'enrgy'. Did you mean 'energy'"),
        ({"probes": ["liner"]}, "linear"),
        ({"ensembles": ["fishers"]}, "fisher"),
        ({"protocols": ["stric"]}, "Unknown protocol 'stric'.*Did you mean 'strict'"),
        ({"protocols": ["full_spectrum"]}, "name it beside strict"),
        ({"detectors": "knn"}, r"detectors is the one name 'knn': give a list of names, \['knn'\]"),
        ({"protocols": "paper"}, "protocols is the one name 'paper'"),
    ],
)
def test_what_there_is_not_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_names(**{"detectors": ["energy"], "probes": ["linear"], **asked})


@pytest.mark.parametrize("value", [-1, 0.5, True, "10"])
def test_a_number_that_cannot_be_is_one_line(value: Any) -> None:
    check_numbers(bootstrap=(0, 0), seed=(7, 0))
    with pytest.raises(UserError, match=f"bootstrap is {value!r}: give a whole number from 0 up"):
        check_numbers(seed=(7, 0), bootstrap=(value, 0))
