"""Training: the loop, checkpoints, resuming, several processes, and the run directory it all goes into."""

from __future__ import annotations

from ood_nc.training.launch import is_main_process
from ood_nc.training.loop import train
from ood_nc.training.run_directory import RunDirectory
from ood_nc.training.runs import load_run

__all__ = ["RunDirectory", "is_main_process", "load_run", "train"]
