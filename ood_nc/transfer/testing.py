"""What every probe must hold to: ``check_probe(my_probe)`` in the tests of a package that adds one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ood_nc.conformance import require, require_refusal, run_checks
from ood_nc.transfer.registry import PROBES, Probe
from ood_nc.transfer.result import ProbeResult

_CLASSES, _DIM = (0, 2, 5), 8


def check_probe(probe: Probe | str) -> None:
    """Check a probe, or the registered one of that name: its result, labels, repetition, layouts, scale, mistakes.

    Raises:
        CheckError: it breaks the protocol; the message says how.
        UserError: no probe of that name.

    Example:
        >>> check_probe("nearest_mean")
    """
    run_checks(PROBES, probe, (_check_result, _check_repetition, _check_layouts, _check_scales, _check_mistakes))


def _problem(train: int = 90, test: int = 30) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three well separated classes, with numbers left out between them."""
    rng = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(len(_CLASSES), _DIM, generator=rng)
    parts: list[Tensor] = []
    for size in (train, test):
        members = torch.arange(size) % len(_CLASSES)
        parts += [centres[members] + torch.randn(size, _DIM, generator=rng), torch.tensor(_CLASSES)[members]]
    return parts[0], parts[1], parts[2], parts[3]


def _check_result(probe: Probe, what: str) -> None:
    problem = _problem()
    before = [part.clone() for part in problem]
    result = probe(*problem, seed=0)
    require(isinstance(result, ProbeResult), what, f"returns a {type(result).__name__}, not a ProbeResult")
    require(all(map(torch.equal, before, problem)), what, "changes its inputs")
    predictions, wanted = result.predictions, problem[3]
    fits = predictions.shape[-1:] == wanted.shape and predictions.shape == result.correct.shape
    require(fits and predictions.ndim <= 2, what, f"predicts {tuple(predictions.shape)} for 30 test samples")
    require(
        set(predictions.flatten().tolist()) <= set(_CLASSES), what, "predicts a class that the training split lacks"
    )
    right = predictions == wanted
    require(torch.equal(result.correct, right), what, "has a `correct` that is not predictions == labels")
    share = float(right.double().mean())
    require(abs(result.accuracy - share) < 1e-9 and result.n == 30, what, "has an accuracy or n that is not that share")
    require(0 <= result.low <= share <= result.high <= 1, what, "has an interval without its accuracy")
    require(share > 0.9, what, f"is right on {share:.0%} of an easy problem")


def _check_repetition(probe: Probe, what: str) -> None:
    problem, state = _problem(), torch.get_rng_state()
    first, second = (probe(*problem, seed=3).predictions for _ in range(2))
    require(torch.equal(first, second), what, "predicts otherwise the second time with one seed")
    require(torch.equal(state, torch.get_rng_state()), what, "draws from the global random state")


def _check_layouts(probe: Probe, what: str) -> None:
    problem = _problem()
    expected = probe(*problem, seed=0).predictions
    arrays = probe(*(part.numpy() for part in problem), seed=0).predictions
    require(torch.equal(expected, arrays), what, "predicts otherwise for NumPy arrays")
    probe(*(part.double() if part.is_floating_point() else part.int() for part in problem), seed=0)


def _check_scales(probe: Probe, what: str) -> None:
    features, labels, queries, wanted = _problem()
    for scale in (0.0, 1e-20, 1e20):
        accuracy = probe(features * scale, labels, queries * scale, wanted, seed=0).accuracy
        least = 0.9 if scale else 0.2
        require(least < accuracy <= 1, what, f"is right on {accuracy:.0%} of an easy problem scaled by {scale:g}")


def _check_mistakes(probe: Probe, what: str) -> None:
    features, labels, queries, wanted = _problem()
    spoiled = features.clone()
    spoiled[0, 0] = torch.nan
    mistakes = {
        "features with NaN": (spoiled, labels, queries, wanted),
        "an empty training split": (features[:0], labels[:0], queries, wanted),
        "splits of different width": (features, labels, queries[:, 1:], wanted),
        "labels that do not fit": (features, labels[1:], queries, wanted),
        "negative labels": (features, labels - 1, queries, wanted),
    }
    for mistake, arguments in mistakes.items():
        require_refusal(what, mistake, partial(probe, *arguments, seed=0))
