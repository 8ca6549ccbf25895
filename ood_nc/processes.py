"""Which of several processes this one is, by what ``torchrun`` and ``accelerate launch`` set."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that ``torchrun`` started."""
    return not is_distributed() or int(os.environ.get("RANK", "0")) == 0


def is_distributed() -> bool:
    """Whether ``torchrun`` (or what sets the same variables) started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
