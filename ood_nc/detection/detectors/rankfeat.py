"""RankFeat: energy without the dominant component of the feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.kit.parameters import Parameter, layer_names, positive
from ood_nc.detection.network import wide
from ood_nc.errors import UserError


@register_detector
class RankFeat(InputDetector):
    """Energy of the logits after the first singular component of a feature map is removed (Song et al., NeurIPS 2022).

    X' = X - s_1 u_1 v_1' for the map X (C, H W) of each image; with several layers each is treated in a pass of its own
    and the logits are averaged.

    Args:
        layers: names of layers with maps (B, C, H, W) or tokens (B, T, d); None: the last two stages, as in the paper.
        temperature: of the energy.
    """

    name = "rankfeat"
    info = DetectorInfo(
        title="RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
        venue="NeurIPS 2022",
        url="https://arxiv.org/abs/2209.08590",
        needs="images and a network with feature maps",
        domain="real",
        cost="fit none; score one forward pass and one SVD of each map a layer",
    )
    requires = frozenset({"network", "layers"})
    needs_fit = False

    layers = Parameter[tuple[str, ...] | None](None, layer_names)
    temperature = Parameter(1.0, positive, search=(0.1, 1.0, 10.0))

    def _score(self, network: Network, images: Tensor) -> Tensor:
        layers = self._chosen_layers(network, images)
        if self.layers is None:
            layers = layers[-2:]
        passes = [wide(network.run(images, replace={layer: without_first_component}).logits) for layer in layers]
        mean = torch.stack(passes).mean(dim=0)
        return self.temperature * (mean / self.temperature).logsumexp(dim=1)


def without_first_component(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) or tokens (B, T, d) without the first singular component of each image's matrix.

    Raises:
        UserError: neither maps nor tokens.
    """
    if maps.ndim not in (3, 4):
        raise UserError(f"rankfeat needs maps (B, C, H, W) or tokens (B, T, d), a layer gave {tuple(maps.shape)}.")
    rows = wide(maps).flatten(2)
    if rows.shape[1] > rows.shape[2]:
        return (rows - _first_component(rows.mT).mT).reshape(maps.shape).to(maps)
    return (rows - _first_component(rows)).reshape(maps.shape).to(maps)


def _first_component(matrices: Tensor) -> Tensor:
    """s_1 u_1 v_1' of each matrix (B, m, n), m <= n: a projection on the first eigenvector of its m x m Gram matrix."""
    vectors = torch.linalg.eigh(matrices @ matrices.mT)[1][:, :, -1:]
    return torch.matmul(vectors, vectors.mT @ matrices)
