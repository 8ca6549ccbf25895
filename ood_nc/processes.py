"""Which of several processes this one is, by what ``torchrun`` and ``accelerate launch`` set, and what it may start."""

from __future__ import annotations

import functools
import logging
import os

logger = logging.getLogger(__name__)

_FEW = 8
_A_CORE = 4


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that ``torchrun`` started."""
    return not is_distributed() or int(os.environ.get("RANK", "0")) == 0


def is_distributed() -> bool:
    """Whether ``torchrun`` (or what sets the same variables) started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # told once
def bounded_workers(workers: int) -> int:
    """So many workers, or as many as the cores bear where that is fewer: four a core, and eight wherever it is.

    Each takes some hundred megabytes: a thousand of them, meant for another machine, would take all the memory of this
    one. No result hangs on their number.
    """
    most = max(_FEW, _A_CORE * cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if workers > most:
        logger.warning("%d workers are too many for %d cores: %d load images.", workers, cores(), most)
    return min(workers, most)
