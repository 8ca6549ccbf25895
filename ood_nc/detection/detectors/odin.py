"""ODIN: temperature and a step of the input towards the prediction."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.kit.parameters import Parameter, channel_std, nonnegative, positive
from ood_nc.detection.kit.perturbation import step_against
from ood_nc.detection.network import Pass, wide


@register_detector
class ODIN(InputDetector):
    """Largest softmax probability at temperature T of the perturbed image (Liang et al., ICLR 2018, equations 1 and 2).

    The image moves by epsilon along the sign of the gradient of log S_y(x; T), y the prediction. Both softmaxes are at
    T, and a pixel without gradient stays.

    Args:
        temperature: T.
        epsilon: size of the step, in the units of the network's input, or of the raw image where ``std`` is given.
        std: the standard deviation the channels were divided by, one for all or one each; the step is divided by it
            too, as in the authors' code.
    """

    name = "odin"
    info = DetectorInfo(
        title="Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
        venue="ICLR 2018",
        url="https://arxiv.org/abs/1706.02690",
        needs="images and a network with gradients",
        domain="[1/C, 1]",
        cost="fit none; score two forward passes and one backward",
    )
    requires = frozenset({"network"})
    needs_fit = False

    temperature = Parameter(1000.0, positive, search=(1.0, 10.0, 100.0, 1000.0))
    epsilon = Parameter(0.0014, nonnegative, search=(0.0, 0.0007, 0.0014, 0.0028))
    std = Parameter[float | tuple[float, ...] | None](None, channel_std)

    def _score(self, network: Network, images: Tensor) -> Tensor:
        gradient, _ = network.input_gradient(images, self._loss)
        perturbed = step_against(images, self._select(gradient), self.epsilon, self.std)
        probabilities = (wide(network.logits(perturbed)) / self.temperature).softmax(dim=1)
        return probabilities.amax(dim=1)

    def _loss(self, done: Pass) -> Tensor:
        # T times the cross-entropy: the same sign, and at T = 1000 a gradient that half precision can hold.
        log_probabilities = (done.logits.float() if done.logits.itemsize < 4 else done.logits) / self.temperature
        return -self.temperature * log_probabilities.log_softmax(dim=1).amax(dim=1)

    def _select(self, gradient: Tensor) -> Tensor:
        """The part of the gradient that the step follows: all of it."""
        return gradient
