"""The `paper` protocol: what the ICML 2025 code measures, at the tensors that it reads, from the same forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.collapse import METRICS, ClassStatistics, measure
from ood_nc.data import ood_key, transfer_keys
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import Scores, detection_rows, null_rows
from ood_nc.evaluation.findings import Found
from ood_nc.evaluation.histograms import histograms
from ood_nc.evaluation.maps import feature_maps
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import PAPER, MakeRow, Row, make_row, reason_of
from ood_nc.evaluation.taps import ID_PROBE, labelled
from ood_nc.evaluation.transfer import accuracy_rows, mean_row
from ood_nc.features import FeatureBank
from ood_nc.models.normalization import SHORTCUTS
from ood_nc.models.pooling import Pooling
from ood_nc.models.probing import trace
from ood_nc.models.taps import TapInfo, tappable
from ood_nc.passes import hook
from ood_nc.transfer import CNN_PROBE, VIT_PROBE, ProbeResult, paper_probe

COLLAPSE = ("nc1_pinv", "nc1_ratio", "nc2_etf", "nc3_duality", "nc4_bias")
SHOWN = ("encoder", "projector")
"""The taps of the published histograms and maps."""

Features = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PaperTap:
    """A tensor that the authors' evaluation reads.

    Attributes:
        name: the convolution's name, ``encoder`` or ``projector``.
        info: what it is called in a feature bank, its depth, pooling and width.
        read: the module whose output it is.
        pool: from that output to (B, d).
        unit: whether the probe reads it L2-normalised (collapse never does).
    """

    name: str
    info: TapInfo
    read: nn.Module
    pool: Callable[[torch.Tensor], torch.Tensor]
    unit: bool = False


class PaperTaps(nn.Module):
    """A model that gives, beside its own taps, those of the paper's protocol, in one forward pass.

    A convolutional network (one in which nothing but norms has weights after the last convolution) is read at the last
    convolution before its norm, averaged over positions (``encoder``), and at the last convolution inside each of the
    model's own taps, in means over 2 x 2 cells; its projector before the L2 normalisation. Any other network is read
    at the projector's input and output and at the model's own taps.

    Args:
        model: `ControlledModel`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.num_classes = model, model.num_classes
        self.is_cnn, self.paper_taps = _find(model)
        self.tap_info = {**model.tap_info, **{tap.info.name: tap.info for tap in self.paper_taps}}

    @property
    def runs_in_threads(self) -> bool:
        """Whether several threads may run it at once."""
        return bool(self.model.runs_in_threads)

    def spec(self) -> dict[str, Any]:
        """That of the model."""
        return dict(self.model.spec())

    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Return the logits and every tap, the model's own first."""
        found: Features = {}
        removers = [hook(tap.read, functools.partial(_record, found, tap)) for tap in self.paper_taps]
        try:
            logits, own = self.model.forward_taps(images)
        finally:
            for remove in removers:
                remove()
        return logits, {**own, **{tap.info.name: found[tap.info.name] for tap in self.paper_taps}}


def measure_paper(plan: Plan, tapped: PaperTaps, found: Found, *, held_out: bool = False) -> None:
    """Every row of the protocol: collapse on ID train, the energy of a fresh probe, and probes of the transfer sets.

    Histograms of that energy, and maps, of encoder and projector are marked as this protocol's.

    W and b of NC2 to NC4 are those of the tap's fresh ID probe after its last epoch, and so is the energy. Accuracies
    are those of the best epoch on the test split, and say so.

    Args:
        plan: what is measured with; its banks hold the taps.
        tapped: the model, for its taps.
        found: takes what is found.
        held_out: the ID validation images are a share of ID train, on all of which the authors fit.
    """
    if held_out:
        plan = replace(plan, banks={**plan.banks, "id_train": _joined(plan.banks["id_train"], plan.banks["id_val"])})
    rows, series = found.rows, {"protocol": PAPER}
    base = {**plan.base, "protocol": PAPER}
    for tap in tapped.paper_taps:
        make = functools.partial(make_row, {**base, "tap": tap.name, "depth": tap.info.depth})
        features = {key: bank.taps[tap.info.name].to(plan.device) for key, bank in plan.banks.items()}
        probed = {key: F.normalize(rows_, dim=1) if tap.unit else rows_ for key, rows_ in features.items()}
        fit = functools.partial(_probe, plan, probed, CNN_PROBE if tapped.is_cnn else VIT_PROBE)
        try:
            probe = fit("id_train", "id_test")
        except UserError as error:
            rows += _undefined(plan, reason_of(error), make)
        else:
            rows += accuracy_rows(
                probe, functools.partial(make, kind="accuracy"), dataset="id_test", group="id", method="linear"
            )
            rows += _collapse(plan, features["id_train"], probe, functools.partial(make, kind="collapse"))
            scores = _energies(plan, probed, probe)
            make_detection = functools.partial(make, kind="detection", method="energy")
            rows += detection_rows(scores, {}, plan, make_detection)
            if tap.name in SHOWN:
                found.histograms += [row | series for row in histograms(tap.name, "energy", scores)]
        if tap.name in SHOWN:
            placed = feature_maps(tap.info.name, plan.banks, plan.feature_map, plan.seed)
            found.maps += [row | series | {"tap": tap.name} for row in placed]
        rows += _transfer(plan, fit, functools.partial(make, kind="transfer", group="transfer", method="linear"))


def _joined(first: FeatureBank, second: FeatureBank) -> FeatureBank:
    taps = {name: torch.cat([rows, second.taps[name]]) for name, rows in first.taps.items()}
    logits, labels = torch.cat([first.logits, second.logits]), torch.cat([first.labels, second.labels])
    return FeatureBank(taps, logits, labels, first.ids + second.ids)


def _record(found: Features, tap: PaperTap, module: nn.Module, arguments: Any, output: Any) -> None:
    found[tap.info.name] = tap.pool(output)


def _find(model: Any) -> tuple[bool, list[PaperTap]]:
    """Whether the backbone ends in a convolution, and the taps in depth order."""
    backbone = model.backbone
    seen = trace(backbone, model.preprocessing["input_size"])
    layouts, modules = tappable(backbone, seen), dict(backbone.named_modules())
    order = list(layouts)
    maps = [name for name in order if _is_map(name, modules[name], seen.outputs[name])]
    last = maps[-1] if maps else None
    is_cnn = last is not None and not any(_mixes(modules[name]) for name in order[order.index(last) + 1 :])
    own = [name for name in model.tap_names if name in layouts]
    taps: list[PaperTap] = []

    def add(name: str, read: nn.Module, pool: Pooling | None, dim: int, *, unit: bool = False) -> None:
        info = TapInfo(f"{PAPER}/{name}", len(taps), pool.name if pool else "none", dim, None)
        taps.append(PaperTap(name, info, read, pool or torch.Tensor.clone, unit))

    if is_cnn:
        inside = [[c for c in maps if order.index(c) <= order.index(name)] for name in own]
        for name in dict.fromkeys(convolutions[-1] for convolutions in inside if convolutions):
            if name != last:
                pool = Pooling("avg2x2", layouts[name])
                add(name, modules[name], pool, pool(seen.outputs[name]).shape[1])  # type: ignore[arg-type]
        pool = Pooling("avg", layouts[last])  # type: ignore[index]
        add("encoder", modules[last], pool, seen.outputs[last].shape[1])  # type: ignore[index,union-attr]
    else:
        for name in own:
            pool = Pooling(model.tap_info[name].pooling, layouts[name])
            add(name, modules[name], pool, model.tap_info[name].dim)
        add("encoder", backbone, None, model.encoder_dim)
    if model.projector is not None:
        read = model.projector.layers[-1] if is_cnn else model.projector
        add("projector", read, None, model.projector.out_dim, unit=is_cnn and model.projector.normalize)
    return is_cnn, taps


def _is_map(name: str, module: nn.Module, output: torch.Tensor | None) -> bool:
    """Whether it is a convolution on the main path that gives a feature map, not one number a channel (a gate)."""
    on_main_path = not SHORTCUTS & set(name.split("."))
    return isinstance(module, nn.Conv2d) and on_main_path and output is not None and output.shape[2:].numel() > 1


def _mixes(module: nn.Module) -> bool:
    """Whether a module that is no convolution (those are gates and shortcuts) has weights that mix channels."""
    return not isinstance(module, nn.Conv2d) and any(
        parameter.ndim > 1 for parameter in module.parameters(recurse=False)
    )


def _probe(plan: Plan, features: Features, settings: Any, train: str, test: str) -> ProbeResult:
    for key in (train, test):
        if key not in features:
            raise UserError("the set holds no readable image")
        if not labelled(plan.banks[key].labels):
            raise UserError("the set has images without labels")
    arguments = features[train], plan.banks[train].labels, features[test], plan.banks[test].labels
    return paper_probe(*arguments, settings=settings, seed=plan.seed)


def _collapse(plan: Plan, features: torch.Tensor, probe: ProbeResult, make: MakeRow) -> list[Row]:
    assert probe.weight is not None
    labels = plan.banks["id_train"].labels.to(features.device)
    stats = ClassStatistics(len(probe.weight), features.shape[1], device=features.device).update(features, labels)
    report = measure(stats, weight=probe.weight, bias=probe.bias, metrics=COLLAPSE)
    values = report.to_dict()
    return [
        make(
            dataset="id_train",
            group="id",
            method=ID_PROBE if "weight" in METRICS[name].needs else None,
            metric=name,
            value=values[name],
            reason=report.reasons.get(name),
            n=report.num_samples,
        )
        for name in COLLAPSE
    ]


def _energies(plan: Plan, features: Features, probe: ProbeResult) -> dict[str, Scores]:
    """The score of every tested image, by set."""
    assert probe.weight is not None
    assert probe.bias is not None
    keys = [key for key in ("id_test", *map(ood_key, plan.inputs.ood)) if key in features]
    energies = {key: (features[key] @ probe.weight.T + probe.bias).logsumexp(dim=1) for key in keys}
    return {key: energy.double().cpu().numpy() for key, energy in energies.items()}


def _transfer(plan: Plan, fit: Callable[[str, str], ProbeResult], make: MakeRow) -> list[Row]:
    rows: list[Row] = []
    results: list[ProbeResult] = []
    for name in plan.inputs.transfer:
        try:
            results.append(fit(*transfer_keys(name)))
        except UserError as error:
            rows.append(make(dataset=name, metric="accuracy", value=None, reason=reason_of(error)))
        else:
            rows += accuracy_rows(results[-1], make, dataset=name)
    if results:
        rows.append(mean_row(results, plan, make))
    return rows


def _undefined(plan: Plan, reason: str, make: MakeRow) -> Sequence[Row]:
    id_row = functools.partial(make, group="id", value=None, reason=reason)
    rows = [id_row(kind="accuracy", dataset="id_test", method="linear", metric="accuracy")]
    rows += [id_row(kind="collapse", dataset="id_train", metric=name) for name in COLLAPSE]
    return rows + null_rows(plan.inputs.groups, reason, functools.partial(make, kind="detection", method="energy"))
