"""Where the numbers of a run go: its own log, and Weights & Biases when asked for."""

from __future__ import annotations

from ood_nc.tracking.local import LocalLog, read_log
from ood_nc.tracking.protocol import Tracker
from ood_nc.tracking.wandb_log import WandbLog

__all__ = ["LocalLog", "Tracker", "WandbLog", "read_log"]
