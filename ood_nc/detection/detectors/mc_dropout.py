"""Monte-Carlo dropout in front of the head."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.kit.parameters import Parameter, one_of, share, whole
from ood_nc.detection.network import wide

STATISTICS = ("probability", "variance")


@register_detector
class MCDropout(InputDetector):
    """Confidence of the mean softmax over dropout masks on the head's input (Gal & Ghahramani, ICML 2016).

    A mask on what the head reads is one draw of the head's weights from the approximate posterior, so one pass has one
    mask for all images: scores depend neither on the batch nor on the global generator, and the network itself runs
    once. The estimate is Bayesian only where the network was trained with dropout of this rate there; on others it
    measures how the prediction stands the loss of features. Dropout elsewhere in the network stays off.

    Args:
        p: share of features dropped; the others are divided by 1 - p.
        passes: number of masks.
        statistic: "probability", the largest mean probability, or "variance", minus the variance over the masks,
            averaged over classes (Kendall et al., 2015), which needs two passes.
        seed: of the masks.
    """

    name = "mc_dropout"
    info = DetectorInfo(
        title="Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning",
        venue="ICML 2016",
        url="https://arxiv.org/abs/1506.02142",
        needs="images and a network with a linear head, best trained with dropout in front of it",
        domain="[1/C, 1], or (-inf, 0] for variance",
        cost="fit none; score one forward pass and O(passes B d C)",
    )
    requires = frozenset({"network", "dropout"})
    needs_fit = False

    p = Parameter(0.5, share, search=(0.1, 0.3, 0.5, 0.7))
    passes = Parameter(5, whole(1), search=(5, 10, 30))
    statistic = Parameter("probability", one_of(*STATISTICS))
    seed = Parameter(0, whole(0))

    def _check_parameters(self) -> None:
        if self.statistic == "variance":
            whole(2).check(self, "passes")

    def _score(self, network: Network, images: Tensor) -> Tensor:
        head = network.head(images)
        features = network.run(images, with_features=True).features
        assert features is not None
        masks = self._masks(features.shape[1]).to(features)
        draws = torch.stack([wide(head(features * mask)).softmax(dim=1) for mask in masks])
        if self.statistic == "variance":
            return -draws.var(dim=0).mean(dim=1)
        return draws.mean(dim=0).amax(dim=1)

    def _masks(self, width: int) -> Tensor:
        """(passes, d): 0, or 1/(1 - p)."""
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.rand(self.passes, width, generator=generator) >= self.p
        return kept.double() / (1 - self.p)
