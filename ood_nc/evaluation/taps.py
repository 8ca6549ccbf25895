"""One tap's features of every set, with the linear classifier that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ood_nc.errors import UserError
from ood_nc.features import FeatureBank
from ood_nc.transfer import ProbeResult, fit_linear_probe, linear_probe

Head = tuple[torch.Tensor, torch.Tensor | None]

HEAD = "head"
ID_PROBE = "id_probe"


@dataclass(frozen=True)
class TapData:
    """A tap, as the measurements see it.

    Attributes:
        name: of the tap.
        depth: its place, from the input on.
        features: by set key, (N, d) on the computing device.
        labels: by set key, (N,), on the same device.
        head: weight and bias of what reads this tap, or None where the ID train set has no labels.
        head_name: ``head`` for the model's own, ``id_probe`` for a linear probe fitted on ID train.
        own_logits: by set key, the model's logits where the head is its own, else empty.
        probe: the ID probe's result on held-out ID, where both have labels.
        selected_on: the split that chose the ID probe's hyper-parameters, where the head is that probe.
    """

    name: str
    depth: int
    features: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]
    head: Head | None
    head_name: str
    own_logits: dict[str, torch.Tensor]
    probe: ProbeResult | None
    selected_on: str | None


def labelled(labels: torch.Tensor) -> bool:
    """Whether every sample has a class."""
    return len(labels) > 0 and bool((labels >= 0).all())


def open_tap(
    model: Any, name: str, banks: Mapping[str, FeatureBank], *, head_fits: bool, device: torch.device, seed: int
) -> TapData:
    """Gather a tap and fit its ID probe (`strict` protocol: the head on the tap it reads, that probe elsewhere)."""
    features = {key: bank.taps[name].to(device) for key, bank in banks.items()}
    labels = {key: bank.labels.to(device) for key, bank in banks.items()}
    own = head_fits and name == model.head_tap
    head: Head | None = None
    selected_on, probe = None, None
    if labelled(labels["id_train"]):
        head, selected_on, probe = _id_probe(features, labels, seed)
    logits: dict[str, torch.Tensor] = {}
    if own:
        head = head_of(model, device)
        logits = {key: bank.logits.to(device) for key, bank in banks.items()}
        selected_on = None
    depth = model.tap_info[name].depth
    return TapData(name, depth, features, labels, head, HEAD if own else ID_PROBE, logits, probe, selected_on)


def head_of(model: Any, device: torch.device | str = "cpu") -> Head | None:
    """Weight and bias of the model's own head; None for features from elsewhere that come with logits alone."""
    parts = (model.head_weight, model.head_bias)
    weight, bias = (None if part is None else part.detach().float().to(device) for part in parts)
    return None if weight is None else (weight, bias)


def _id_probe(
    features: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor], seed: int
) -> tuple[Head | None, str | None, ProbeResult | None]:
    train = features["id_train"], labels["id_train"]
    try:
        if not labelled(labels["id_test"]):
            fitted = fit_linear_probe(*train, seed=seed)
            return (fitted.weight, fitted.bias), fitted.selected_on, None
        probe = linear_probe(*train, features["id_test"], labels["id_test"], seed=seed)
    except UserError:
        # One class, say: what needs the probe then says so itself.
        return None, None, None
    assert probe.weight is not None
    return (probe.weight, probe.bias), probe.selected_on, probe
