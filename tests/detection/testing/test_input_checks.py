from __future__ import annotations

import pytest
import torch

from ood_nc.conformance import CheckError
from ood_nc.detection import (
    DetectorInfo,
    InputDetector,
    Network,
    check_detector,
    detector_class,
    list_detectors,
)
from ood_nc.detection.testing import detector_checks

CHECKS = detector_checks("input")


@pytest.mark.parametrize("name", list_detectors(kind="input"))
@pytest.mark.parametrize("check", CHECKS)
def test_every_input_detector_passes_every_check(name, check):
    CHECKS[check](detector_class(name))


class Sound(InputDetector):
    """Minus the distance of a layer's mean to the nearest class mean."""

    name = "sound"
    info = DetectorInfo("t", "v", "u", "n", "d", "c")
    requires = frozenset({"network", "labels", "layers"})

    def __init__(self, *, layers: tuple[str, ...] | None = None) -> None:
        self.layers = layers

    def hyperparameters(self):
        return {"layers": (None, ("stage1",))}

    def _fit(self, network, batches):
        self.layers_ = self.layers or network.stages(batches.first())[-1:]
        rows = torch.cat([self._means(network, images) for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        self.means_ = torch.stack([rows[labels == c].mean(dim=0) for c in labels.unique()])

    def _means(self, network, images):
        outputs = network.run(images, read=self.layers_).outputs
        return torch.cat([outputs[name].flatten(2).mean(dim=2) for name in self.layers_], dim=1).double()

    def _score(self, network, images):
        return -(self._means(network, images)[:, None] - self.means_).norm(dim=2).amin(dim=1)


def test_a_sound_detector_passes():
    check_detector(Sound)


def broken(**attributes):
    return type("Broken", (Sound,), {"__doc__": "Broken on purpose.", **attributes})


def _sum_of_batch(self, network, images):
    scores = Sound._score(self, network, images)
    return scores - scores.mean()


def _random(self, network, images):
    return Sound._score(self, network, images) + torch.rand(len(images))


def _in_place(self, network, images):
    scores = Sound._score(self, network, images)
    images.sub_(1)
    return scores


def _by_strides(self, network, images):
    return Sound._score(self, network, images) + images.is_contiguous()


def _by_dtype(self, network, images):
    return Sound._score(self, network, images) + (images.dtype == torch.float32)


def _keeps_graph_off(self, network, images):
    return Sound._score(self, network, images) + any(p.requires_grad for p in network.module.parameters())


def _backward(self, network, images):
    with torch.enable_grad():
        network.logits(images).sum().backward()
    return Sound._score(self, network, images)


def _trains(self, network, images):
    network.module.train()
    network.module(images)
    return Sound._score(self, network, images)


def _leaves_hooks(self, network, images):
    network.layer(self.layers_[0]).register_forward_hook(lambda *a: None)
    return Sound._score(self, network, images)


def _eval_without_finally(self, network, images):
    network.module.eval()
    network.module(images)
    network.module.train()
    return Sound._score(self, network, images)


def _hides(self, network, batches):
    Sound._fit(self, network, batches)
    self.scale = 2.0


def _uses_hidden(self, network, images):
    return Sound._score(self, network, images) * getattr(self, "scale", 1.0)


def _takes_anything(self, images):
    if not torch.is_tensor(images):
        images = torch.from_numpy(images)
    with torch.no_grad():
        return self._score(self.network, images.to(self.network.dtype).nan_to_num(posinf=0))


def _any_layer(self, network, batches):
    self.layers = None
    Sound._fit(self, network, batches)


def _attach_unchecked(self, network):
    self._network = Network(network)
    return self


def _counts_batches(self, network, batches):
    Sound._fit(self, network, batches)
    self.means_ = self.means_ * sum(1 for _ in batches)


def _cleans(self, network, batches=None):
    return Sound.fit(self, network, [(images.nan_to_num(posinf=0), labels) for images, labels in batches])


MUTANTS = {
    "scores": broken(_score=lambda self, network, images: -Sound._score(self, network, images)),
    "batch_invariance": broken(_score=_sum_of_batch),
    "determinism": broken(_score=_random),
    "inputs_unchanged": broken(_score=_in_place),
    "layouts": broken(_score=_by_strides),
    "single_precision": broken(_score=_by_dtype),
    "gradient_modes": broken(_score=_keeps_graph_off),
    "network_untouched": broken(_score=_backward),
    "failing_network": broken(_score=_eval_without_finally),
    "batching": broken(_fit=_counts_batches),
    "detached": broken(__getstate__=lambda self: vars(self)),
    "non_finite_fit": broken(fit=_cleans),
    "state": broken(_fit=_hides, _score=_uses_hidden),
    "declaration": broken(requires=frozenset({"features"})),
    "parameters": broken(hyperparameters=lambda self: {"exponent": (1.0,)}),
    "missing_inputs": broken(needs_fit=False),
    "missing_layers": broken(_fit=_any_layer, attach=_attach_unchecked),
    "non_finite": broken(score=_takes_anything),
    "extremes": broken(_checked_scores=lambda self, scores: scores),
    "degenerate_fits": broken(_score=lambda self, n, x: Sound._score(self, n, x) / self.means_.std(dim=0).amin()),
}


@pytest.mark.parametrize("check", MUTANTS)
def test_each_check_can_fail(check):
    with pytest.raises(Exception) as caught:
        CHECKS[check](MUTANTS[check])
    # A mutant may also fail by an error of its own, which is a failure all the same.
    assert isinstance(caught.value, (CheckError, AttributeError))


@pytest.mark.parametrize("score", [_trains, _leaves_hooks])
def test_other_changes_of_the_network_are_found(score):
    with pytest.raises(CheckError, match=r"score changes the network|draws from the global generator"):
        CHECKS["network_untouched"](broken(_score=score))


def test_every_check_has_a_mutant():
    assert set(CHECKS) - set(MUTANTS) <= {"devices"}
