from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ood_nc.features import FeatureBank, extract
from tests.helpers.fakes import TinyData, TinyModel


def test_selected_rows_are_those_of_an_extraction_of_their_own() -> None:
    data = TinyData(broken=(2, 7))
    bank = extract(TinyModel(), data)
    chosen = [8, 2, 0, 5]
    found = bank.select([data.ids[row] for row in chosen], np.array([5, 6, 7, 8]))
    assert found.ids == ("8.png", "0.png", "5.png") and found.labels.tolist() == [5, 7, 8]
    assert found.broken == [("2.png", "OSError: truncated file 2")]
    for name, features in found.taps.items():
        assert torch.equal(features, bank.taps[name][[6, 0, 4]])
    assert torch.equal(found.logits, bank.logits[[6, 0, 4]]) and len(found) == 3


def test_nothing_selected() -> None:
    found = extract(TinyModel(), TinyData()).select([], np.array([], dtype=np.int64))
    assert len(found) == 0 and found.taps["stem"].shape == (0, 12)


@pytest.mark.parametrize(
    ("copies", "told"), [(1, None), (2, None), (10, r"90 % of the 100 rows repeat another \(10 distinct\)")]
)
def test_a_bank_of_copies_says_so(copies: int, told: str | None) -> None:
    rows = torch.randn(100 // copies, 4).repeat(copies, 1)
    bank = FeatureBank({"encoder": rows}, torch.zeros(100, 2), torch.zeros(100).long(), tuple(map(str, range(100))))
    note = bank.copies_note("encoder")
    assert note is None if told is None else re.match(told, note or "")
