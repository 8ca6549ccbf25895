"""Collapse of every layer's input: traces, CDNV, class means' angles, nearest class mean, alignment with the weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ood_nc.collapse import ClassStatistics, UndefinedMetricError, measure, nearest_means, pabs, pabs_conv
from ood_nc.errors import UserError
from ood_nc.intermediate.layers import Layer, watch_inputs, weighted_layers
from ood_nc.passes import evaluating

STATISTICS = ("trace_within", "trace_between", "within_share", "nc1_ratio", "cdnv", "nc2_norm", "nc2_angle")
"""The collapse metrics of a layer that its class means and traces give; none needs a scatter of d x d."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""(images (B, C, H, W), labels (B,)), the same at every iteration."""


@dataclass(frozen=True)
class LayerReport:
    """What was measured on one layer's input.

    Attributes:
        layer: which.
        values: `STATISTICS` on the training images, and ``pabs``; those that are defined.
        ncc: by data set (``id_train`` and what else was given), the share of samples whose nearest class mean (of
            the training images) is their class's.
        agreement: likewise, the share whose nearest class mean is the network's prediction.
    """

    layer: Layer
    values: dict[str, float]
    ncc: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> Iterator[tuple[str, str, float]]:
        """Every number, as (metric, data set, value)."""
        yield from ((name, "id_train", value) for name, value in self.values.items())
        yield from (("ncc_accuracy", name, value) for name, value in self.ncc.items())
        yield from (("ncc_agreement", name, value) for name, value in self.agreement.items())


@torch.no_grad()
def measure_layers(
    model: nn.Module,
    train: Batches,
    tests: dict[str, Batches] | None = None,
    *,
    num_classes: int,
    rank: int = 10,
    device: torch.device | str = "cpu",
) -> list[LayerReport]:
    """Measure the input of every linear and convolutional layer, as it is: flattened, not pooled.

    Two passes over ``train``, one over each test set, in evaluation mode. Memory is O(C d) a layer.

    Args:
        model: any network of images to logits.
        train: batches that class means and traces come from.
        tests: further batches by name, for the nearest class mean.
        num_classes: C.
        rank: singular vectors on each side of a convolution's (or a token layer's) `pabs_conv`; for a linear layer on
            vectors it is C.
        device: where the model is.

    Returns:
        A report a layer, in the order in which they run.

    Raises:
        UserError: the network has no such layer, an input is not finite, a set has no images, or ``train`` can be read
            once alone.

    Source: Rangamani et al., ICML 2023, sections 3 and 4: features are the inputs of each layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        >>> images = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [4.0, 2.0]]).view(4, 1, 1, 2)
        >>> report, = measure_layers(network, [(images, torch.tensor([0, 0, 1, 1]))], num_classes=2)
        >>> report.values["trace_within"], report.ncc["id_train"]
        (1.0, 1.0)
    """
    if iter(train) is train or (first := next(iter(train), None)) is None:
        raise UserError("The training batches are read several times: give a list or a DataLoader that has some.")
    layers = {layer.name: layer for layer in weighted_layers(model, first[0][:1].to(device))}
    statistics = {
        name: ClassStatistics(num_classes, layer.dim, device=device, full=False) for name, layer in layers.items()
    }
    with evaluating(model):
        _accumulate(model, train, statistics, device)
        reports = {name: LayerReport(layer, _values(layer, statistics[name], rank)) for name, layer in layers.items()}
        for name, batches in {"id_train": train, **(tests or {})}.items():
            for layer, (right, agreed) in _nearest(model, batches, statistics, device).items():
                reports[layer].ncc[name], reports[layer].agreement[name] = right, agreed
    return list(reports.values())


def effective_depth(
    reports: Sequence[LayerReport], *, tolerance: float = 0.01, dataset: str = "id_train"
) -> int | None:
    """The depth of the first layer from whose input on the nearest class mean is right, in every later layer too.

    Args:
        reports: of `measure_layers`.
        tolerance: share of the samples that may be wrong.
        dataset: on which set.

    Returns:
        Its depth, None where not even the last layer's input is separated so.

    Source: Galanti, Galanti, Ben-Shaul 2022, "On the implicit bias towards depth minimization".
    """
    found = None
    for report in reversed(reports):
        if report.ncc[dataset] < 1 - tolerance:
            break
        found = report.layer.depth
    return found


def sample_indices(size: int, images: int, seed: int) -> list[int]:
    """The indices of a seeded sample of at most so many, in order.

    Example:
        >>> sample_indices(3, images=10, seed=0)
        [0, 1, 2]
    """
    return np.sort(np.random.default_rng([seed, 0]).permutation(size)[:images]).tolist()


def _accumulate(
    model: nn.Module, batches: Batches, statistics: dict[str, ClassStatistics], device: torch.device | str
) -> None:
    for images, labels in batches:
        targets = labels.to(device)

        def take(name: str, values: torch.Tensor, targets: torch.Tensor = targets) -> None:
            if name in statistics:
                statistics[name].update(values.flatten(1), targets)

        with watch_inputs(model, take):
            model(images.to(device))


def _nearest(
    model: nn.Module, batches: Batches, statistics: dict[str, ClassStatistics], device: torch.device | str
) -> dict[str, tuple[float, float]]:
    right, agreed, count = dict.fromkeys(statistics, 0), dict.fromkeys(statistics, 0), 0
    for images, labels in batches:
        nearest: dict[str, torch.Tensor] = {}

        def take(name: str, values: torch.Tensor, nearest: dict[str, torch.Tensor] = nearest) -> None:
            if name in statistics:
                nearest[name] = nearest_means(statistics[name], values.flatten(1))

        with watch_inputs(model, take):
            predictions = model(images.to(device)).argmax(dim=1)
        targets = labels.to(device)
        for name, classes in nearest.items():
            right[name] += int((classes == targets).sum())
            agreed[name] += int((classes == predictions).sum())
        count += len(labels)
    if not count:
        raise UserError("A test set has no images: leave it out.")
    return {name: (right[name] / count, agreed[name] / count) for name in statistics}


def _values(layer: Layer, stats: ClassStatistics, rank: int) -> dict[str, float]:
    report = measure(stats, metrics=STATISTICS).to_dict()
    values = {name: value for name in STATISTICS if (value := report[name]) is not None}
    with suppress(UndefinedMetricError):
        aligned = _alignment(layer, stats, rank)
        if aligned is not None:
            values["pabs"] = aligned
    return values


def _alignment(layer: Layer, stats: ClassStatistics, rank: int) -> float | None:
    """PABS of the class means with the layer's weight; None for a grouped convolution, which has no common space."""
    module = layer.module
    weight = module.weight.detach()
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            return None
        return pabs_conv(stats.uncentered_means.unflatten(1, layer.shape), weight, rank)
    if len(layer.shape) == 1:
        return pabs(stats, weight)
    positions = stats.uncentered_means.unflatten(1, (-1, layer.shape[-1]))  # (C, N, d): a 1 x 1 convolution of tokens
    return pabs_conv(positions.transpose(1, 2)[..., None], weight[:, :, None, None], rank)
