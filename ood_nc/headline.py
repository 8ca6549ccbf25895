"""The headline of a run: what stands for it where one number is asked for, fixed before any test set is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ood_nc.documents import measured_taps

HEADLINE_DETECTORS = ("knn", "energy")

HEADLINE_RULE = (
    "Fixed before any OOD or transfer data is read: detection is judged on the tap the head reads (the projector where "
    "there is one, else the encoder), by knn and by energy (where neither ran, by the first detector named), transfer "
    "on the encoder tap, by the linear probe (else the first one named), ID accuracy by the head. Differences are the "
    "later run minus the reference, on the same images."
)


@dataclass(frozen=True)
class Headline:
    """Taps and methods that stand for a run, by `HEADLINE_RULE`."""

    detection_tap: str
    detectors: tuple[str, ...]
    transfer_tap: str
    probe: str | None


def headline(identity: Mapping[str, Any]) -> Headline:
    """The headline of a run, from the identity in its results alone.

    Args:
        identity: with ``taps`` (each with its ``name``), ``head_tap``, ``detectors``, ``probes``.
    """
    taps = measured_taps(identity)
    head_tap = taps.get(str(identity.get("head_tap")), list(taps)[-1])
    detectors, probes = list(identity.get("detectors") or ()), list(identity.get("probes") or ())
    return Headline(
        detection_tap=head_tap,
        detectors=tuple(name for name in HEADLINE_DETECTORS if name in detectors) or tuple(detectors[:1]),
        transfer_tap=taps.get("encoder", head_tap),
        probe="linear" if "linear" in probes else next(iter(probes), None),
    )
