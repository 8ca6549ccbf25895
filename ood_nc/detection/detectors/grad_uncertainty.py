"""Norm of the parameters' gradients for a label that is every class at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.kit.parameters import Parameter, layer_names
from ood_nc.errors import UserError
from ood_nc.passes import evaluating, run_with


@register_detector
class GradUncertainty(InputDetector):
    """Squared norm of the gradient of - sum_c log p_c by the parameters (Lee & AlRegib, ICIP 2020).

    The confounding label is all classes at once. The gradient at the logits is C p - 1: zero where the network cannot
    tell the classes apart, large where it is sure, so that larger = more in-distribution. The paper trains a classifier
    on the norms of all layers, with OOD data; this is their sum, which needs none.

    Args:
        layers: names of layers whose parameters count, with all that they contain; None: the whole network. The head
            alone is the cheapest choice.
    """

    name = "grad_uncertainty"
    info = DetectorInfo(
        title="Gradients as a Measure of Uncertainty in Neural Networks",
        venue="ICIP 2020",
        url="https://arxiv.org/abs/2008.08030",
        needs="images and a network with gradients by its parameters",
        domain="[0, inf)",
        cost="fit none; score one forward and one backward pass for each image on its own",
    )
    requires = frozenset({"network"})
    needs_fit = False

    layers = Parameter[tuple[str, ...] | None](None, layer_names)

    def _score(self, network: Network, images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad(), evaluating(network.module):
            # Leaves of their own: the network's parameters may be frozen, and stay as they are.
            leaves = {name: value.detach().requires_grad_() for name, value in self._parameters(network)}
            return torch.stack([self._squared_norm(network, leaves, image[None].clone()) for image in images])

    def _squared_norm(self, network: Network, leaves: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = run_with(network.module, leaves, image)
        loss = -logits.log_softmax(dim=1).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        norms = [_wide_norm(gradient) for gradient in gradients if gradient is not None]
        return torch.stack(norms).square().sum()

    def _parameters(self, network: Network) -> list[tuple[str, Tensor]]:
        inside = [f"{name}." for name in self.layers or ()]
        chosen: list[tuple[str, Tensor]] = [
            (name, value)
            for name, value in network.module.named_parameters()
            if self.layers is None or name.startswith(tuple(inside))
        ]
        if not chosen:
            raise UserError("Detector 'grad_uncertainty': the chosen layers have no parameters.")
        return chosen


def _wide_norm(gradient: Tensor) -> Tensor:
    # Summing in float64 costs no float64 copy of all parameters.
    source = gradient.cpu() if gradient.device.type == "mps" else gradient
    norm: Tensor = torch.linalg.vector_norm(source, dtype=torch.float64)
    return norm
