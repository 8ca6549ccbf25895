"""What a private head guarantees, and what several from the same records guarantee together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ood_nc.errors import UserError
from ood_nc.privacy.accounting import Mechanism, epsilon_of


@dataclass(frozen=True)
class Statement:
    """What is guaranteed, and what was run: epsilon is computed from ``mechanisms``, never copied from the target.

    Attributes:
        epsilon: of all that read the private features together; infinite for a head that is not private.
        delta: the probability that is left.
        adjacency: which sets of records are neighbours.
        accountant: of `ood_nc.privacy.ACCOUNTANTS`; what epsilon was computed with.
        method: how the head was trained, ``noisy_gd`` or ``dp_sgd``.
        clip: largest 2-norm of a sample's gradient.
        mechanisms: noise multiplier, sample rate and steps of each, those paid for the preparation first.
        records: N, taken as public.
        notes: on what the guarantee rests.

    Example:
        >>> from ood_nc.privacy import ADJACENCY, Mechanism, Statement, epsilon_of
        >>> run = Mechanism(noise_multiplier=10, steps=100)
        >>> found = epsilon_of([run], 1e-5)
        >>> str(Statement(found, 1e-5, ADJACENCY, "analytic", "noisy_gd", 1.0, (run,), 5000))[:40]
        '(4.377, 1e-05)-differentially private (a'
    """

    epsilon: float
    delta: float
    adjacency: str
    accountant: str
    method: str
    clip: float
    mechanisms: tuple[Mechanism, ...]
    records: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite number, which JSON has not, as None."""
        plain = asdict(self) | {"mechanisms": [mechanism._asdict() for mechanism in self.mechanisms]}
        return {key: None if value == math.inf else value for key, value in plain.items()}

    def __str__(self) -> str:
        if self.epsilon == math.inf:
            return f"{self.method} without noise: no privacy"
        return (
            f"({self.epsilon:.4g}, {self.delta:g})-differentially private ({self.adjacency}; accountant "
            f"{self.accountant}): {self.method}, clipping norm {self.clip:g}, "
            + ", ".join(
                f"{m.steps} x noise {m.noise_multiplier:.4g} at rate {m.sample_rate:.4g}" for m in self.mechanisms
            )
        )


def compose(statements: Sequence[Statement]) -> Statement:
    """What several releases from the same records guarantee together, of whom sees them all.

    Epsilon is computed from all mechanisms at once, at the delta of each: less than the epsilons added up, which hold
    at that many deltas.

    Args:
        statements: of the same records, delta, accountant and neighbours.

    Raises:
        UserError: none, or they differ in one of these.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import compose, fit_private_head
        >>> x, y = torch.eye(3).repeat(200, 1), torch.arange(3).repeat(200)
        >>> heads = [fit_private_head(x, y, epsilon=1.0, delta=1e-4, num_classes=3, seed=seed) for seed in range(4)]
        >>> together = compose([head.statement for head in heads])
        >>> round(together.epsilon, 2), together.mechanisms[0].steps
        (2.21, 400)
    """
    if not statements:
        raise UserError("There is no statement to compose.")
    for name in ("delta", "adjacency", "accountant", "records"):
        values = dict.fromkeys(getattr(statement, name) for statement in statements)
        if len(values) > 1:
            raise UserError(f"Statements of different {name} cannot be composed: {', '.join(map(str, values))}.")
    first, steps = statements[0], dict[tuple[float, float], int]()
    for mechanism in (mechanism for statement in statements for mechanism in statement.mechanisms):
        kind = mechanism.noise_multiplier, mechanism.sample_rate
        steps[kind] = steps.get(kind, 0) + mechanism.steps
    mechanisms = tuple(Mechanism(noise, rate, number) for (noise, rate), number in steps.items())
    return Statement(
        epsilon_of(mechanisms, first.delta, first.accountant),
        first.delta,
        first.adjacency,
        first.accountant,
        ", ".join(dict.fromkeys(statement.method for statement in statements)),
        max(statement.clip for statement in statements),
        mechanisms,
        first.records,
        tuple(dict.fromkeys(note for statement in statements for note in statement.notes)),
    )
