"""What every input detector must hold to: on its images, and on the network that it only borrows."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ood_nc.detection.errors import MissingInputError, NonFiniteError
from ood_nc.detection.input_base import InputDetector
from ood_nc.detection.testing.common import close, finite_or_refused, refusal, require, saved_and_loaded
from ood_nc.detection.testing.image_problem import ImageProblem
from ood_nc.errors import NotFittedError, UserError


def _check_batching(cls: type[InputDetector], problem: ImageProblem) -> None:
    expected = problem.fit(cls()).score(problem.queries)
    single = cls().fit(problem.network, problem.batches(7))
    require(close(single.score(problem.queries), expected, 1e-6), cls, "scores depend on how fit was batched.")


def _check_single_precision(cls: type[InputDetector], problem: ImageProblem) -> None:
    expected = problem.fit(cls()).score(problem.queries)
    problem.network.float()
    scores = problem.fit(cls()).score(problem.queries)
    require(close(scores, expected, 1e-3), cls, "a network in float32 gives other scores.")


def _check_gradient_modes(cls: type[InputDetector], problem: ImageProblem) -> None:
    expected = problem.fit(cls()).score(problem.queries)
    for parameter in problem.network.parameters():
        parameter.requires_grad_(False)
    modes = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "enable_grad": torch.enable_grad}
    for name, mode in modes.items():
        with mode():
            scores = problem.fit(cls()).score(problem.queries.clone())
        require(torch.equal(scores, expected), cls, f"scores of a frozen network differ under torch.{name}.")


def _check_network_untouched(cls: type[InputDetector], problem: ImageProblem) -> None:
    network = problem.network.train()
    network.stage1.eval()
    network.stage2[0].weight.requires_grad_(False)
    network.head.weight.grad = torch.full_like(network.head.weight, 3.0)
    before, random_state = _snapshot(network), torch.get_rng_state()
    detector = problem.fit(cls())
    for what in ("fit", "score"):
        changed = [key for key, value in _snapshot(network).items() if not _same(value, before[key])]
        require(not changed, cls, f"{what} changes the network: {', '.join(changed[:3])}.")
        require(torch.equal(torch.get_rng_state(), random_state), cls, f"{what} draws from the global generator.")
        detector.score(problem.queries)


def _check_failing_network(cls: type[InputDetector], problem: ImageProblem) -> None:
    """Hooks and training flags are restored when the network raises."""
    fragile = Fragile(problem.network)
    fragile.train()
    detector = cls().fit(fragile, problem.batches())
    before = _snapshot(fragile)
    # A few passes go through first, so that every place where the network runs gets its failure.
    for left in range(4):
        for attempt in (lambda: detector.score(problem.queries), lambda: cls().fit(fragile, problem.batches())):
            fragile.passes_left = left
            with contextlib.suppress(BrokenError):
                attempt()
            fragile.passes_left = None
            changed = [key for key, value in _snapshot(fragile).items() if not _same(value, before[key])]
            require(not changed, cls, f"a pass that raised leaves the network changed: {', '.join(changed[:3])}.")


def _check_detached(cls: type[InputDetector], problem: ImageProblem) -> None:
    detector = problem.fit(cls())
    for name, other in {"loading": saved_and_loaded(detector), "copying": copy.deepcopy(detector)}.items():
        error = refusal(cls, f"{name} without the network", MissingInputError, partial(other.score, problem.queries))
        require("network" in str(error), cls, "the error for a missing network does not name it.")


def _check_missing_inputs(cls: type[InputDetector], problem: ImageProblem) -> None:
    images_alone = [images for images, _ in problem.batches()]
    cases: list[tuple[str, type[UserError], Callable[[], Any]]] = []
    if cls.needs_fit:
        cases.append(("score before fit", NotFittedError, lambda: cls().score(problem.queries)))
        cases.append(("fit without batches", MissingInputError, lambda: cls().fit(problem.network)))
        cases.append(("fit on an iterator", UserError, lambda: cls().fit(problem.network, iter(problem.batches()))))
        cases.append(("fit on nothing", UserError, lambda: cls().fit(problem.network, [])))
    if "labels" in cls.requires:
        cases.append(("fit without labels", MissingInputError, lambda: cls().fit(problem.network, images_alone)))
    cases.append(("images of whole numbers", UserError, lambda: problem.fit(cls()).score(problem.queries.long())))
    not_a_module: Any = torch.relu
    cases.append(("a network that is no module", UserError, lambda: cls().fit(not_a_module, problem.batches())))
    for what, wanted, attempt in cases:
        refusal(cls, what, wanted, attempt)


def _check_missing_layers(cls: type[InputDetector], problem: ImageProblem) -> None:
    if "layers" not in cls.parameter_names():
        return

    def attempt() -> None:
        problem.fit(cls().set_params(layers=("stage1", "stag2"))).score(problem.queries)

    seen = str(refusal(cls, "an unknown layer", UserError, attempt))
    require("'stag2'" in seen and "'stage2'" in seen, cls, "the error does not name the nearest layer.")


def _check_non_finite_fit(cls: type[InputDetector], problem: ImageProblem) -> None:
    if not cls.needs_fit:
        return
    for value in (float("nan"), float("inf")):
        images = problem.queries.clone()
        images[3, 0, 2, 1] = value
        batches = [problem.batches(5)[0], (images, problem.labels[: len(images)])]
        fit = partial(cls().fit, problem.network, batches)
        error = refusal(cls, f"{value} in a train image", NonFiniteError, fit)
        require(error.first == 8 and error.count == 1, cls, "the error does not name image and count.")


def _check_extremes(cls: type[InputDetector], problem: ImageProblem) -> None:
    """A network with NaN in its head is refused in one line; at the top of float32, scores are finite or refused."""
    problem.network.float()
    huge = problem.queries.float() / problem.queries.abs().max().float() * torch.finfo(torch.float32).max
    finite_or_refused(cls, "images at the top of float32", lambda: problem.fit(cls()).score(huge), may_overflow=True)
    problem.network.head.weight.data[1, 2] = float("nan")
    finite_or_refused(cls, "a head with NaN", lambda: problem.fit(cls()).score(problem.queries), may_overflow=True)


def _check_devices(cls: type[InputDetector], problem: ImageProblem) -> None:
    if not torch.cuda.is_available():
        return
    detector = problem.fit(cls())
    expected = detector.score(problem.queries)
    problem.network.cuda()
    for other in (problem.fit(cls()), saved_and_loaded(detector).attach(problem.network)):
        scores = other.score(problem.queries)
        require(not scores.is_cuda and close(scores, expected, 1e-5), cls, "scores differ on a GPU.")
        require(other.score(problem.queries.cuda()).is_cuda, cls, "scores are not on the images' device.")


class BrokenError(RuntimeError):
    """What :class:`Fragile` raises."""


class Fragile(nn.Module):
    """A network that raises after ``passes_left`` more passes, behind all layers that can be read."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes_left: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or an error."""
        logits: Tensor = self.network(images)
        if self.passes_left is not None:
            if self.passes_left == 0:
                raise BrokenError
            self.passes_left -= 1
        return logits


def _snapshot(network: nn.Module) -> dict[str, Any]:
    """Everything about a network that a detector could leave changed."""
    found: dict[str, Any] = {f"value of {name}": value.clone() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        found[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
        found[f"requires_grad of {name}"] = parameter.requires_grad
    for name, layer in network.named_modules():
        found[f"training flag of {name or 'the network'}"] = layer.training
        hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
        found[f"hooks on {name or 'the network'}"] = sum(map(len, hooks))
    return found


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first is second or (not isinstance(first, torch.Tensor) and first == second)
