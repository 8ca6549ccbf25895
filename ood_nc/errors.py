"""The errors a user can cause. Each message is one line: what is wrong, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can correct. The command line prints its message alone and exits with 2."""


class MissingPackageError(UserError, ImportError):
    """A package that only some features need is not installed."""


class NotFittedError(UserError):
    """A detector that learns from ID train data was asked for scores before ``fit``."""

    def __init__(self, detector: str) -> None:
        super().__init__(f"Detector {detector!r} is not fitted: call fit(features, ...) or load_state_dict(...) first.")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of ``known``, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
