"""Banks that are computed from another model's equal those of a forward pass."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ood_nc.features import BankStore, DerivedStore, derived, extract
from tests.helpers.fakes import TinyData, TinyModel


class Wider(TinyModel):
    """The tiny model with a tap behind its encoder, which its logits come from."""

    def __init__(self) -> None:
        super().__init__()
        self.tap_info["squares"] = SimpleNamespace(name="squares", depth=2, pooling="none", dim=4, nonnegative=True)

    def behind(self, taps: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        squares = taps["encoder"] ** 2
        return squares @ self.head.T, {**taps, "squares": squares}

    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.behind(super().forward_taps(images)[1])


@pytest.mark.parametrize("broken", [(), (0, 4, 9), (3, 4, 5, 6)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_they_equal_a_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[int, ...], rows: int
) -> None:
    monkeypatch.setattr(derived, "_ROWS", rows)
    original, model, data = TinyModel(), Wider(), TinyData(broken=broken)
    source = BankStore(tmp_path / "source")
    store = DerivedStore(tmp_path / "derived", model, source=source, original=original, derive=model.behind)
    first, again = (store.get(model, data, batch_size=4) for _ in range(2))
    assert (original.images, model.images) == (10 - len(broken), 0)
    expected = extract(Wider(), data, batch_size=4)
    for bank in (first, again):
        assert (bank.ids, bank.broken, list(bank.taps)) == (expected.ids, expected.broken, list(expected.taps))
        assert torch.equal(bank.labels, expected.labels)
        torch.testing.assert_close([bank.logits, *bank.taps.values()], [expected.logits, *expected.taps.values()])
    assert list(store.get(TinyModel(), data).taps) == ["stem", "encoder"]  # any other model is forwarded


def test_what_was_begun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "_ROWS", 3)
    original, model, data = TinyModel(), Wider(), TinyData(broken=(1, 3))
    calls = []

    def failing(taps: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        calls.append(len(taps["encoder"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return model.behind(taps)

    store = DerivedStore(tmp_path / "b", model, source=BankStore(tmp_path / "a"), original=original, derive=failing)
    with pytest.raises(KeyboardInterrupt):
        store.get(model, data)
    bank, expected = store.get(model, data), extract(Wider(), data)
    assert calls == [3, 3, 3, 2]  # the first part is not made again
    assert bank.ids == expected.ids and bank.broken == expected.broken
    torch.testing.assert_close(bank.logits, expected.logits)
