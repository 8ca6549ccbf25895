"""The named errors of the detection room; each message is one line."""

from __future__ import annotations

from collections.abc import Iterable

from ood_nc.errors import UserError


class NonFiniteError(UserError):
    """Features or logits hold NaN or infinity."""

    def __init__(self, name: str, count: int, first: int, total: int) -> None:
        self.count = count
        self.first = first
        super().__init__(
            f"{name}: {count} of {total} rows hold NaN or infinity, the first is row {first}: leave those samples out."
        )


class MissingInputError(UserError):
    """``fit`` or ``score`` lacks an input that the detector requires."""

    def __init__(self, detector: str, missing: Iterable[str], requires: Iterable[str], where: str) -> None:
        self.missing = frozenset(missing)
        super().__init__(
            f"Detector {detector!r} lacks {_listed(self.missing)} in {where}; it requires {_listed(requires)}."
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
