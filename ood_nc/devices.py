"""The device that a name means."""

from __future__ import annotations

import torch

from ood_nc.errors import UserError


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else MPS, else the CPU.

    Raises:
        UserError: not a device, or not one of this machine.
    """
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if str(name) == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"There is no device {name!r}: use auto, cpu, cuda, cuda:N or mps.") from None
    if not 0 <= (device.index or 0) < available.get(device.type, 0):
        there = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"The device is {str(name)!r}, which this machine does not have (it has: {there}); try auto.")
    return device
