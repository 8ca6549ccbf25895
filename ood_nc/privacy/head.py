"""`fit_private_head`: a classifier on frozen features under differential privacy, with a statement of its cost."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ood_nc.arrays import ArrayLike, as_labels, as_matrix
from ood_nc.errors import UserError
from ood_nc.privacy.accounting import ADJACENCY, Mechanism, epsilon_of, noise_for
from ood_nc.privacy.remedies import Preparation, private_preparation, public_preparation
from ood_nc.privacy.statement import Statement
from ood_nc.privacy.training import dp_sgd, noisy_gd, sampling_rate
from ood_nc.sealed import DamagedFileError, read_sealed, write_sealed

_KIND = "private head"


@dataclass(frozen=True)
class PrivateHead:
    """A linear classifier on prepared features.

    Attributes:
        preparation: what features go through first.
        weight: (C, k).
        bias: (C,).
        statement: what it cost.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import fit_private_head
        >>> head = fit_private_head(torch.eye(2), [0, 1], epsilon=float("inf"), delta=0.1, num_classes=2)
        >>> head.logits(torch.eye(2)).argmax(dim=1).tolist(), str(head.statement)
        ([0, 1], 'noisy_gd without noise: no privacy')
    """

    preparation: Preparation
    weight: torch.Tensor
    bias: torch.Tensor
    statement: Statement

    def logits(self, features: ArrayLike) -> torch.Tensor:
        """The logits (N, C) of features (N, d) as they come from the backbone."""
        x = as_matrix(features).to(self.weight)
        return F.linear(self.preparation(x), self.weight, self.bias)

    def accuracy(self, features: ArrayLike, labels: ArrayLike) -> float:
        """Share of samples of the right class."""
        found = self.logits(features).argmax(dim=1)
        return float((found == as_labels(labels, len(found)).to(found.device)).double().mean())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; the statement stands in its header."""
        parts = {"center": self.preparation.center, "directions": self.preparation.directions}
        tensors = {"weight": self.weight, "bias": self.bias}
        tensors |= {name: value for name, value in parts.items() if value is not None}
        header = {"kind": _KIND, "normalize": self.preparation.normalize, "statement": self.statement.to_dict()}
        write_sealed(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> PrivateHead:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, a damaged one, or one of another kind.
        """
        header, tensors = read_sealed(path)
        if header.get("kind") != _KIND:
            raise UserError(f"{path} is no private head: write one with ood-nc private-head.")
        try:
            stated = dict(header["statement"])
            stated |= {key: math.inf if stated[key] is None else stated[key] for key in ("epsilon", "clip")}
            stated["mechanisms"] = tuple(Mechanism(**mechanism) for mechanism in stated["mechanisms"])
            preparation = Preparation(header["normalize"], tensors.get("center"), tensors.get("directions"))
            statement = Statement(**stated | {"notes": tuple(stated["notes"])})
            return cls(preparation, tensors["weight"], tensors["bias"], statement)
        except (KeyError, TypeError) as error:
            raise DamagedFileError(f"{path} is damaged, or of another version ({error}).") from None


def fit_private_head(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: float,
    delta: float,
    num_classes: int,
    method: str = "noisy_gd",
    steps: int = 100,
    batch_size: int | None = None,
    learning_rate: float = 10.0,
    clip: float = 1.0,
    accountant: str | None = None,
    normalize: bool = True,
    center: bool = False,
    components: int | None = None,
    public: ArrayLike | None = None,
    share: float = 0.2,
    seed: int | None = None,
) -> PrivateHead:
    """Train a linear classifier on frozen features so that it, and the preparation, are (epsilon, delta)-private.

    Args:
        features: (N, d) of the private records.
        labels: (N,), 0 to C - 1.
        epsilon: the target; infinite for the same training without clipping and noise.
        delta: the probability that is left; below 1/N, else it allows to publish a record.
        num_classes: C; counting it in the labels would read them.
        method: ``noisy_gd``, full batches; ``dp_sgd``, Poisson samples.
        steps: of the training.
        batch_size: mean size of a Poisson sample; a tenth of the records when not given.
        learning_rate: of the mean gradient; choosing it by the private records costs privacy that is not counted.
        clip: largest 2-norm of a sample's gradient.
        accountant: ``analytic`` for full batches and ``prv`` for samples when not given.
        normalize: bring features to unit norm.
        center: subtract a mean.
        components: project onto so many principal directions.
        public: features (M, d) of other, public data: the mean and directions are theirs and free; without them both
            are taken from the private features with noise, and paid for.
        share: what is paid for those, as a share of the budget (of the squared mu of Gaussian privacy).
        seed: of noise and samples; from the system's randomness when not given.

    Raises:
        UserError: a wrong argument, or features and labels that do not fit.
        MissingPackageError: ``dp_sgd``, or an accountant of Opacus, without Opacus.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import fit_private_head
        >>> x, y = torch.eye(3).repeat(200, 1), torch.arange(3).repeat(200)
        >>> head = fit_private_head(x, y, epsilon=1.0, delta=1e-4, num_classes=3, seed=0)
        >>> head.accuracy(x, y), head.statement.epsilon <= 1.0
        (1.0, True)
    """
    x = as_matrix(features)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    y = as_labels(labels, len(x), num_classes=num_classes).to(x.device)
    if not (0 < learning_rate < math.inf and (batch_size is None or batch_size >= 1)):
        raise UserError(
            f"learning_rate must be positive and finite and batch_size at least 1, got {learning_rate:g}, {batch_size}."
        )
    rate = 1.0 if method == "noisy_gd" else sampling_rate(len(x), batch_size or max(1, len(x) // 10))
    _check(x, method, epsilon, delta, clip, share, normalize or public is not None or not (center or components))
    accountant = accountant or ("analytic" if rate == 1.0 else "prv")
    private = epsilon < math.inf
    generator = _fresh_generator() if seed is None else torch.Generator().manual_seed(seed)
    kinds: dict[str, Any] = {"normalize": normalize, "center": center, "components": components}
    if public is None:
        budget = (epsilon, delta, share) if private else None
        preparation, spent = _paid_preparation(x, budget, generator, **kinds)
    else:
        preparation, spent = public_preparation(_like(x, public), **kinds), []
    paid: dict[str, Any] = {"steps": steps, "sample_rate": rate, "accountant": accountant, "others": spent}
    noise = noise_for(epsilon, delta, **paid) if private else 0.0
    settings: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "noise_multiplier": noise}
    settings |= {"clip": clip if private else math.inf, "generator": generator}
    if method == "noisy_gd" or not private:
        trained, mechanism = noisy_gd(preparation(x), y, num_classes, **settings)
    else:
        size = batch_size or max(1, len(x) // 10)
        trained, mechanism = dp_sgd(preparation(x), y, num_classes, batch_size=size, **settings)
    mechanisms = (*spent, mechanism)
    found = epsilon_of(mechanisms, delta, accountant) if private else math.inf
    statement = Statement(
        found, delta, ADJACENCY, accountant, method, settings["clip"], mechanisms, len(x), tuple(_notes(seed, private))
    )
    return PrivateHead(preparation, *trained, statement)


def _paid_preparation(
    x: torch.Tensor,
    budget: tuple[float, float, float] | None,
    generator: torch.Generator,
    *,
    normalize: bool,
    center: bool,
    components: int | None,
) -> tuple[Preparation, list[Mechanism]]:
    """A preparation of the private features themselves, within a share of the budget, and the mechanisms it took."""
    releases = center + (components is not None)
    if releases == 0:
        return Preparation(normalize), []
    noise = 0.0
    if budget is not None:
        epsilon, delta, share = budget
        noise = noise_for(epsilon, delta) * math.sqrt(releases / share)
    return private_preparation(x, noise_multiplier=noise, generator=generator, center=center, components=components)


def _like(x: torch.Tensor, public: ArrayLike) -> torch.Tensor:
    """Public features as the private ones are."""
    other = as_matrix(public, "public").to(x)
    if other.shape[1] != x.shape[1] or not bool(torch.isfinite(other).all()):
        raise UserError(f"public must hold finite features of {x.shape[1]} columns, got {other.shape[1]}.")
    return other


def _fresh_generator() -> torch.Generator:
    """A generator whose whole state is of the system's randomness.

    PyTorch cuts a seed to 32 bits: so few can all be tried, each with the training that it leads to.
    """
    generator = torch.Generator()
    state = generator.get_state()  # a header of 24 bytes, then the 624 words of the Mersenne Twister, 8 bytes each
    words = torch.frombuffer(bytearray(secrets.token_bytes(4 * 624)), dtype=torch.int32)
    state[24 : 24 + 8 * 624].view(torch.int64).copy_(words.long() & 0xFFFFFFFF)
    return generator.set_state(state)


def _notes(seed: int | None, private: bool) -> Sequence[str]:
    if not private:
        return ["no noise was added: nothing is guaranteed"]
    notes = [
        "the number of classes is taken as public, and settings as chosen without the private records: what was tried "
        "on them is not counted",
    ]
    notes += ["the noise is floating-point and from a generator that is not cryptographic"]
    return notes if seed is None else [*notes, "the seed was given: who knows it can subtract the noise"]


def _check(
    x: torch.Tensor, method: str, epsilon: float, delta: float, clip: float, share: float, bounded: bool
) -> None:
    if not bool(torch.isfinite(x).all()):
        raise UserError("The features hold NaN or infinity: leave those samples out.")
    if method not in ("noisy_gd", "dp_sgd"):
        raise UserError(f"Unknown method {method!r}: use noisy_gd or dp_sgd.")
    if not epsilon > 0:
        raise UserError(f"epsilon must be positive (infinite for no privacy), got {epsilon:g}.")
    if not 0 < delta < 1 / len(x):
        raise UserError(f"delta must be positive and below 1/N = {1 / len(x):.3g}, got {delta:g}.")
    if not (0 < clip < math.inf and 0 < share < 1):
        raise UserError(f"clip must be positive and finite and share in (0, 1), got {clip:g} and {share:g}.")
    if not bounded:
        raise UserError(
            "A mean and directions of private features need bounded features: set normalize, or give public."
        )
