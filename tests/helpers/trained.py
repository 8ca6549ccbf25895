"""What the tests of training compare of a run."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from ood_nc.tracking import read_log
from ood_nc.training import RunDirectory


def weights(directory, which="last"):
    return load_file(directory / "checkpoints" / f"{which}.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def close(first, second, tolerance):
    return all(torch.allclose(first[key].double(), second[key].double(), atol=tolerance, rtol=0) for key in first)


def numbers(directory):
    """The log without what a clock decides."""
    lines = read_log(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def raise_interrupt():
    raise KeyboardInterrupt


def status(directory):
    return RunDirectory(directory).read_status()
