"""Where the numbers of a run go: its own log, Weights & Biases when asked for, and what other packages add by name."""

from __future__ import annotations

from ood_nc.tracking.local import LocalLog, read_log
from ood_nc.tracking.protocol import Tracker
from ood_nc.tracking.registry import TRACKERS, OpenTracker, open_trackers
from ood_nc.tracking.testing import check_tracker
from ood_nc.tracking.wandb_log import WandbLog, sync_command

__all__ = [
    "TRACKERS",
    "LocalLog",
    "OpenTracker",
    "Tracker",
    "WandbLog",
    "check_tracker",
    "open_trackers",
    "read_log",
    "sync_command",
]
