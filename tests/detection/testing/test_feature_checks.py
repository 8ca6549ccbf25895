from __future__ import annotations

import pytest
import torch

from ood_nc.conformance import CheckError
from ood_nc.detection import (
    DetectorInfo,
    FeatureDetector,
    check_detector,
    detector_class,
    list_detectors,
)
from ood_nc.detection.kit.parameters import Parameter, positive
from ood_nc.detection.testing import detector_checks

CHECKS = detector_checks()


@pytest.mark.parametrize("name", list_detectors(kind="feature"))
@pytest.mark.parametrize("check", CHECKS)
def test_every_detector_passes_every_check(name, check):
    CHECKS[check](detector_class(name))


class Sound(FeatureDetector):
    """Minus the distance to the nearest class mean."""

    name = "sound"
    info = DetectorInfo("t", "v", "u", "n", "d", "c")
    requires = frozenset({"features", "labels"})

    power = Parameter(1.0, positive, search=(1.0, 2.0))

    def _fit(self, train):
        self.means_ = train.class_means

    def _score(self, queries):
        distances = (queries.features.double()[:, None] - self.means_).norm(dim=2)
        return -(distances.amin(dim=1) ** self.power)


def test_a_sound_detector_passes():
    check_detector(Sound)


def broken(**attributes):
    return type("Broken", (Sound,), {"__doc__": "Broken on purpose.", **attributes})


def _whole_batch(self, queries):
    scores = Sound._score(self, queries)
    return scores - scores.mean() if len(scores) else scores


def _by_a_narrow_product(self, queries):
    return (queries.features.float() @ torch.ones(queries.dim, 1))[:, 0]


def _in_place(self, queries):
    scores = Sound._score(self, queries)
    queries.features.sub_(1)
    return scores


def _random(self, train):
    self.means_ = train.class_means + torch.randn(())


def _by_reference(self, train):
    self.means_ = train.features


def _remembers(self, train):
    type(self).fits = getattr(type(self), "fits", 0) + 1
    self.means_ = train.class_means * type(self).fits


def _hides(self, train):
    self.means_ = train.class_means
    self.scale = 2.0


def _uses_hidden(self, queries):
    return Sound._score(self, queries) * getattr(self, "scale", 1.0)


def _takes_anything(self, train):
    self.means_ = train.class_means if "labels" in train.available else train.mean[None]


def _no_width(self, queries):
    return -queries.features.double().sum(dim=1).abs()


def _overflows(self, queries):
    return -((queries.features.float()[:, None] - self.means_).square().sum(dim=2)).double().amin(dim=1)


def _any_logits(self, queries):
    return queries.logits.amax(dim=1)


MUTANTS = {
    "autocast": broken(score=FeatureDetector.score.__wrapped__, _score=_by_a_narrow_product),
    "scores": broken(_score=lambda self, queries: -Sound._score(self, queries)),
    "batch_invariance": broken(_score=_whole_batch),
    "inputs_unchanged": broken(_fit=_by_reference),
    "determinism": broken(_fit=_random),
    "declaration": broken(requires=frozenset({"pixels"})),
    "parameters": broken(hyperparameters=lambda self: {"exponent": (1.0,)}),
    "missing_inputs": broken(_check_inputs=lambda self, given, where: None, _fit=_takes_anything),
    "non_finite": broken(_check_inputs=lambda self, given, where: None, _checked_scores=lambda self, scores: scores),
    "degenerate_fits": broken(_score=lambda self, q: Sound._score(self, q) / self.means_.std(dim=0).amin()),
    "state": broken(_fit=_hides, _score=_uses_hidden),
    "collapsed_features": broken(_score=lambda self, q: Sound._score(self, q) * (1 + 1e-4 * len(q))),
    "extremes": broken(_score=_overflows, _checked_scores=lambda self, scores: scores),
    "other_logits": broken(
        requires=frozenset({"logits"}), _check_widths=lambda self, given, wanted: None, _score=_any_logits
    ),
    "half_precision": broken(_score=lambda self, q: Sound._score(self, q) + (q.features.dtype == torch.float16)),
    "layouts": broken(_score=lambda self, q: Sound._score(self, q) + q.features.is_contiguous()),
    "shared_context": broken(_score=lambda self, q: q.shared("n", lambda: torch.rand(len(q)).double())),
    "wrong_width": broken(_check_inputs=lambda self, given, where: None, _score=_no_width),
}


@pytest.mark.parametrize("check", MUTANTS)
def test_each_check_can_fail(check):
    with pytest.raises(Exception) as caught:
        CHECKS[check](MUTANTS[check])
    # A mutant may also fail by an error of its own, which is a failure all the same.
    assert isinstance(caught.value, (CheckError, AttributeError))


def test_in_place_changes_are_found():
    with pytest.raises(CheckError, match="changes its inputs"):
        CHECKS["inputs_unchanged"](broken(_score=_in_place))


def test_a_fit_that_remembers_is_found():
    with pytest.raises(CheckError, match="different scores"):
        CHECKS["determinism"](broken(_fit=_remembers))


def test_every_check_has_a_mutant():
    assert set(CHECKS) - set(MUTANTS) <= {"devices"}
