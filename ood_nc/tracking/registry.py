"""Trackers by name, and the promise that none of them ends a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ood_nc.errors import UserError
from ood_nc.registry import Registry
from ood_nc.tracking.protocol import Tracker

logger = logging.getLogger(__name__)

OpenTracker: TypeAlias = Callable[[Path, Mapping[str, Any], int], Tracker]
"""(run directory, resolved configuration, last step) -> tracker. A resumed run goes on behind its last step."""

TRACKERS: Registry[OpenTracker] = Registry(
    "tracker",
    "ood_nc.trackers",
    fault=lambda entry: None if callable(entry) else "is no function of (directory, config, last_step)",
    package="ood_nc.tracking",
)
"""Every tracker that ``tracking.trackers`` can name. Ours are added in the files of this folder."""


def open_trackers(
    trackers: Iterable[str | Tracker], directory: Path, config: Mapping[str, Any], last_step: int = 0
) -> list[Tracker]:
    """Open trackers by name, each once; those given open are taken as they are.

    Whatever one of them raises later is noted once, and the run goes on without it; ``local`` alone may stop a run, as
    its log is the run's own.

    Raises:
        UserError: an unknown name, or a tracker refuses its settings.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ood_nc.tracking import open_trackers
        >>> open_trackers(["local"], Path(tempfile.mkdtemp()), {})
        [<ood_nc.tracking.local.LocalLog object at ...>]
    """
    found: list[Tracker] = []
    for tracker in dict.fromkeys(trackers):
        if not isinstance(tracker, str):
            found.append(_Guarded(type(tracker).__name__, lambda given=tracker: given))  # type: ignore[misc]
            continue
        opener = TRACKERS[tracker]
        if tracker == "local":
            found.append(opener(directory, config, last_step))
        else:
            found.append(_Guarded(tracker, lambda opener=opener: opener(directory, config, last_step)))  # type: ignore[misc]
    return found


class _Guarded:
    """A tracker that is dropped, with a warning, at the first thing it raises."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        try:
            self._tracker = open_tracker()
        except UserError:
            raise
        except Exception as error:
            self._drop(error)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Hand one line on."""
        self._attempt(lambda tracker: tracker.log(values, step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Hand the run's last word on."""
        self._attempt(lambda tracker: tracker.finish(summary))

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is not None:
            try:
                action(self._tracker)
            except Exception as error:  # another package's code, of no weight beside hours of training
                self._drop(error)

    def _drop(self, error: Exception) -> None:
        self._tracker = None
        reason = (str(error).strip().splitlines() or [""])[0]
        kind = type(error).__name__
        logger.warning("The tracker %s failed, the run goes on without it: %s: %s", self._name, kind, reason)
