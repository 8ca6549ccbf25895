"""The probes that an evaluation can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ood_nc.registry import Registry
from ood_nc.transfer.result import ProbeResult

Probe: TypeAlias = Callable[..., ProbeResult]
"""(train_features, train_labels, test_features, test_labels, *, seed) -> `ProbeResult`; reads the test split once."""

PROBES: Registry[Probe] = Registry(
    "probe",
    "ood_nc.probes",
    fault=lambda entry: (
        None
        if callable(entry) and not isinstance(entry, type)
        else "is no function of (train_features, train_labels, test_features, test_labels, *, seed)"
    ),
    package="ood_nc.transfer",
)
"""Every probe by name. Ours are added in the files of this folder."""
