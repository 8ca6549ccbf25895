"""Everything random as a function of the seed and of what it is for.

Nothing random in a run depends on what was drawn before: each batch of each process, and each training sample, starts
from a seed of its own. So neither an interruption nor the number of loading processes changes a run, and a checkpoint
needs no generator states.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*keys: int | str) -> int:
    """A seed below 2**63 for one use, e.g. ``derive_seed(seed, "order", epoch)``; the same in every process."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(*keys: int | str) -> None:
    """Seed Python, NumPy and torch (every device) for one use."""
    seed = derive_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (timm's transforms and mixup draw from NumPy's global state)
    torch.manual_seed(seed)


def seed_transforms(*keys: int | str) -> None:
    """Seed what transforms draw from: Python, NumPy, and torch on the CPU."""
    seed = derive_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # torch.manual_seed would seed the GPU as well, which no transform uses but the model does.
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Put the generators that `seed_transforms` seeds back to where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
