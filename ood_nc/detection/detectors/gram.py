"""Deviations of Gram matrices from the range they take on ID train data."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.input_base import Batches
from ood_nc.detection.kit.parameters import Parameter, flag, layer_names, several, share, whole
from ood_nc.detection.network import Pass, wide
from ood_nc.errors import UserError

_OFFSET = 1e-6
"""Added to a bound's absolute value before dividing by it: a feature that was never active has the bound 0."""


@register_detector
class Gram(InputDetector):
    """Minus the deviation of Gram statistics from the range of the predicted class (Sastry & Oore, ICML 2020).

    For a layer's map F (C, places) and a power p, the statistic of a channel is its row sum in F^p F^p', to the power
    1/p with its sign. Its deviation is how far it lies outside the smallest and largest value on train images that the
    network puts into the same class, relative to that bound; deviations are added up and divided by the largest softmax
    probability, and each layer's by its mean on held-out train images. Row sums, the division by the probability and
    the grouping by prediction are those of the authors' code. A class that was never predicted in ``fit`` has the range
    of all train images.

    Args:
        layers: names of layers with maps (B, C, H, W), tokens (B, T, d) or vectors (B, d); None: the network's stages.
            The authors read every convolution and activation.
        powers: the p, whole and at least 1; the authors' code takes 1 to 10.
        held_out: share of each predicted class that only gives the mean deviation: every round(1 / share)-th image. A
            layer without deviations there counts as it is.
        divide_by_confidence: whether to divide by the largest softmax probability.
    """

    name = "gram"
    info = DetectorInfo(
        title="Detecting Out-of-Distribution Examples with Gram Matrices",
        venue="ICML 2020",
        url="https://arxiv.org/abs/1912.12510",
        needs="images and a network with feature maps; train images twice in the same order",
        domain="(-inf, 0]",
        cost="fit 1.1 forward passes; score one; O(C x powers x d) numbers kept",
    )
    requires = frozenset({"network", "layers"})

    layers = Parameter[tuple[str, ...] | None](None, layer_names)
    powers = Parameter[tuple[int, ...]](
        (1, 2, 3, 4, 5),
        several(whole(1).holds, "a tuple of different whole numbers of at least 1", distinct=True),
        search=((1,), (1, 2, 3), (1, 2, 3, 4, 5), tuple(range(1, 11))),
    )
    held_out = Parameter(0.1, share)
    divide_by_confidence = Parameter(True, flag)

    def _fit(self, network: Network, batches: Batches) -> None:
        self.layers_ = self._chosen_layers(network, batches.first())
        held = self._fit_ranges(network, batches)
        self._fit_expectations(network, batches, held)

    def _fit_ranges(self, network: Network, batches: Batches) -> list[tuple[Tensor, Tensor]]:
        """Ranges from the images that are not held out; by batch, positions and sums of those that are."""
        stride = max(round(1 / self.held_out), 2)
        counts: Counter[int] = Counter()
        held = []
        for images, _ in batches:
            done = network.run(images, read=self.layers_)
            predicted = done.logits.argmax(dim=1)
            out = torch.zeros(len(images), dtype=torch.bool)
            for row, label in enumerate(predicted.tolist()):
                counts[label] += 1
                out[row] = counts[label] % stride == 0
            positions = out.nonzero()[:, 0].to(predicted.device)
            held.append((positions, _image_sums(images[positions])))
            self._widen(done, predicted, ~out.to(predicted.device))
        for lowest, highest in zip(self.lowest_, self.highest_, strict=True):
            lowest[~self.seen_] = lowest[self.seen_].amin(dim=0)
            highest[~self.seen_] = highest[self.seen_].amax(dim=0)
        return held

    def _widen(self, done: Pass, predicted: Tensor, kept: Tensor) -> None:
        classes = done.logits.shape[1]
        statistics = [self._statistics(done.outputs[layer]) for layer in self.layers_]
        if not hasattr(self, "lowest_"):
            shapes = [(classes, *rows.shape[1:]) for rows in statistics]
            self.lowest_ = [rows.new_full(shape, float("inf")) for rows, shape in zip(statistics, shapes, strict=True)]
            self.highest_ = [-lowest for lowest in self.lowest_]
            self.seen_ = torch.zeros(classes, dtype=torch.bool, device=statistics[0].device)
        for label in predicted[kept].unique().tolist():
            chosen = (kept & (predicted == label)).to(self.seen_.device)
            self.seen_[label] = True
            for index, rows in enumerate(statistics):
                self.lowest_[index][label] = self.lowest_[index][label].minimum(rows[chosen].amin(dim=0))
                self.highest_[index][label] = self.highest_[index][label].maximum(rows[chosen].amax(dim=0))

    def _fit_expectations(self, network: Network, batches: Batches, held: list[tuple[Tensor, Tensor]]) -> None:
        deviations = []
        for (images, _), (positions, sums) in zip(batches, held, strict=False):
            images = images[positions[positions < len(images)]]
            if not torch.equal(_image_sums(images), sums):
                raise UserError(f"Detector {self.name!r}: batches differ each time they are read; do not shuffle them.")
            if len(images):
                deviations.append(self._deviations(network.run(images, read=self.layers_)))
        means = torch.cat(deviations).mean(dim=0).tolist() if deviations else [0.0] * len(self.layers_)
        self.expected_ = [mean if mean > 0 else 1.0 for mean in means]

    def _score(self, network: Network, images: Tensor) -> Tensor:
        deviations = self._deviations(network.run(images, read=self.layers_))
        return -(deviations / deviations.new_tensor(self.expected_)).sum(dim=1)

    def _deviations(self, done: Pass) -> Tensor:
        """Total deviation of each image at each layer (B, layers)."""
        predicted = done.logits.argmax(dim=1).to(self.seen_.device)
        found = []
        for index, layer in enumerate(self.layers_):
            rows = self._statistics(done.outputs[layer])
            lowest, highest = self.lowest_[index][predicted], self.highest_[index][predicted]
            outside = (lowest - rows).relu() / (lowest.abs() + _OFFSET)
            outside += (rows - highest).relu() / (highest.abs() + _OFFSET)
            found.append(outside.flatten(1).sum(dim=1))
        total = torch.stack(found, dim=1)
        if self.divide_by_confidence:
            total /= wide(done.logits).softmax(dim=1).amax(dim=1, keepdim=True)
        return total

    def _statistics(self, output: Tensor) -> Tensor:
        """Row sums of the Gram matrices (B, powers, channels)."""
        if output.ndim not in (2, 3, 4):
            raise UserError(
                f"Detector {self.name!r} needs maps, tokens or vectors, a layer gave {tuple(output.shape)}."
            )
        maps = wide(output)
        maps = maps.mT if output.ndim == 3 else maps.flatten(2) if output.ndim == 4 else maps[:, :, None]
        found = []
        for power in self.powers:
            raised = maps**power
            # The row sums of F F' are F (F' 1): no matrix of channels by channels is needed.
            sums = (raised * raised.sum(dim=1, keepdim=True)).sum(dim=2)
            found.append(sums.sign() * sums.abs() ** (1 / power))
        return torch.stack(found, dim=1)


def _image_sums(images: Tensor) -> Tensor:
    """A number by which to know each image again (B,)."""
    return wide(images).flatten(1).sum(dim=1)
