"""What stands for a run where one number is asked for, fixed before any OOD or transfer data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADLINE_RULE = (
    "Fixed before any OOD or transfer data is read: detection is judged on the tap the head reads, by energy (else "
    "the first detector named), transfer on the encoder tap, by the linear probe (else the first one named), ID "
    "accuracy by the head. Differences are the later run minus the reference, on the same images."
)


@dataclass(frozen=True)
class Headline:
    """Taps and methods that stand for a run, by `HEADLINE_RULE`."""

    detection_tap: str
    detector: str
    transfer_tap: str
    probe: str


def headline(identity: Mapping[str, Any]) -> Headline:
    """What stands for a run, from its identity alone."""
    taps = [tap["name"] for tap in identity["taps"]]
    head_tap = identity["head_tap"]
    return Headline(
        detection_tap=head_tap,
        detector=_preferred("energy", identity["detectors"]),
        transfer_tap="encoder" if "encoder" in taps else head_tap,
        probe=_preferred("linear", identity["probes"]),
    )


def _preferred(name: str, known: Sequence[str]) -> str:
    return name if name in known or not known else known[0]
