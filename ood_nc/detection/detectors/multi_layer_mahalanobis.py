"""Mahalanobis distances at several layers, added up."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, TapStatistics, register_detector
from ood_nc.detection.input_base import Batches
from ood_nc.detection.kit.parameters import Parameter, channel_std, layer_names, nonnegative, numbers
from ood_nc.detection.kit.perturbation import step_against
from ood_nc.detection.network import wide
from ood_nc.errors import UserError


@register_detector
class MultiLayerMahalanobis(InputDetector):
    """Weighted sum over layers of - min_c (f - mu_c)' S^+ (f - mu_c) (Lee et al., NeurIPS 2018, algorithm 1).

    f is the mean of a layer's map over its places, mu_c and S the class means and the covariance around them, tied over
    classes, over N, at that layer; the pseudo-inverse drops directions whose variance is below 1e-12 of the largest.
    With ``epsilon``, each layer sees the image after a step that raises that layer's term. The paper fits the weights
    and epsilon on OOD data; the defaults need none.

    Args:
        layers: names of layers with maps (B, C, H, W), tokens (B, T, d) or vectors (B, d); None: the network's stages.
        weights: of the layers; None: 1 each.
        epsilon: size of the step, in the units of the network's input, or of the raw image where ``std`` is given.
        std: the standard deviation the channels were divided by, one for all or one each.
    """

    name = "multi_layer_mahalanobis"
    info = DetectorInfo(
        title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        venue="NeurIPS 2018",
        url="https://arxiv.org/abs/1807.03888",
        needs="images, ID train labels and a network with feature maps",
        domain="(-inf, 0] for positive weights",
        cost="fit one forward pass and O(N d^2 + d^3); score one forward pass; with a step two and a backward a layer",
    )
    requires = frozenset({"network", "labels", "layers"})

    layers = Parameter[tuple[str, ...] | None](None, layer_names)
    weights = Parameter[tuple[float, ...] | None](None, numbers.or_none())
    epsilon = Parameter(0.0, nonnegative, search=(0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01))
    std = Parameter[float | tuple[float, ...] | None](None, channel_std)

    def _fit(self, network: Network, batches: Batches) -> None:
        layers = self._chosen_layers(network, batches.first())
        self._layer_weights(len(layers))
        rows: list[list[Tensor]] = [[] for _ in layers]
        labels = []
        for images, classes in batches:
            outputs = network.run(images, read=layers).outputs
            for kept, layer in zip(rows, layers, strict=True):
                kept.append(spatial_mean(outputs[layer]))
            labels.append(classes)
        self.layers_, self.means_, self.whitenings_, self.whitened_class_means_ = layers, [], [], []
        for kept in rows:
            train = TapStatistics(torch.cat(kept), torch.cat(labels).to(kept[0].device))
            whitening = train.within_whitening
            self.means_.append(train.global_mean)
            self.whitenings_.append(whitening)
            self.whitened_class_means_.append((train.class_means - train.global_mean) @ whitening)

    def _score(self, network: Network, images: Tensor) -> Tensor:
        total = torch.zeros(len(images), dtype=torch.float64, device=self.means_[0].device)
        if self.epsilon == 0:
            outputs = network.run(images, read=self.layers_).outputs
            distances = [self._distance(index, outputs[layer]) for index, layer in enumerate(self.layers_)]
        else:
            distances = [self._distance_after_step(network, images, index) for index in range(len(self.layers_))]
        for weight, distance in zip(self._layer_weights(len(self.layers_)), distances, strict=True):
            total -= weight * distance
        return total

    def _distance_after_step(self, network: Network, images: Tensor, index: int) -> Tensor:
        layer = self.layers_[index]
        gradient, _ = network.input_gradient(
            images, lambda done: self._distance(index, done.outputs[layer]), read=(layer,)
        )
        perturbed = step_against(images, gradient, self.epsilon, self.std)
        return self._distance(index, network.run(perturbed, read=(layer,)).outputs[layer])

    def _distance(self, index: int, output: Tensor) -> Tensor:
        """Squared distance of one layer's output to the nearest class mean (B,), with a graph where it has one."""
        whitened = (spatial_mean(output) - self.means_[index]) @ self.whitenings_[index]
        centers = self.whitened_class_means_[index]
        with torch.no_grad():
            nearest = torch.cdist(whitened, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        return (whitened - centers[nearest]).square().sum(dim=1)

    def _layer_weights(self, count: int) -> tuple[float, ...]:
        weights = (1.0,) * count if self.weights is None else tuple(self.weights)
        if len(weights) != count:
            raise UserError(f"Detector {self.name!r}: there are {len(weights)} weights for {count} layers.")
        return weights


def spatial_mean(output: Tensor) -> Tensor:
    """Mean over the places of a map (B, C, H, W) or over tokens (B, T, d), in float64; vectors stay as they are.

    Raises:
        UserError: another number of dimensions.
    """
    if output.ndim == 4:
        return wide(output).mean(dim=(2, 3))
    if output.ndim == 3:
        return wide(output).mean(dim=1)
    if output.ndim == 2:
        return wide(output)
    raise UserError(f"A layer gave {tuple(output.shape)}; maps (B, C, H, W), tokens (B, T, d) or vectors are needed.")
