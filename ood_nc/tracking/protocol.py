"""What every tracker can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """A receiver of a run's numbers."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Take one line: numbers by name, with ``split`` (train, tracked, val or collapse) and ``epoch`` among them."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the run's last word and close. Nothing is logged afterwards.

        Of a training, ``state`` is finished, failed or interrupted, ``reason`` what it failed of; the rest are numbers.
        An evaluation opens the tracker anew, as a resumed run does, and gives every value of its table.
        """
