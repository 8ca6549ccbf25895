"""Training: the loop, checkpoints, resuming, several processes, and the run directory it all goes into."""

from __future__ import annotations

from ood_nc.training.launch import joined, own_device
from ood_nc.training.loop import train
from ood_nc.training.retrofit import EncoderFeatures, fit_behind_encoder, from_encoder, with_projector, write_best
from ood_nc.training.run_directory import RunDirectory
from ood_nc.training.runs import load_run

__all__ = [
    "EncoderFeatures",
    "RunDirectory",
    "fit_behind_encoder",
    "from_encoder",
    "joined",
    "load_run",
    "own_device",
    "train",
    "with_projector",
    "write_best",
]
