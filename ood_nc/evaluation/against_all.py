"""One detector at a tap of one run against every detector at a tap of another: is it better than each of them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ood_nc.documents import OOD_GROUPS
from ood_nc.errors import UserError
from ood_nc.evaluation.common_samples import CommonSamples
from ood_nc.evaluation.results import Results
from ood_nc.evaluation.scores_table import score_column
from ood_nc.scores import percentile_interval

_LARGER_IS_BETTER = {"auroc": True, "fpr95_id_positive": False}
METRICS = tuple(_LARGER_IS_BETTER)


@dataclass(frozen=True)
class Duel:
    """A detector of the reference, and by how much the challenger differs from it.

    Attributes:
        metric: ``auroc`` or ``fpr95_id_positive``.
        method: the reference's detector.
        reference: its mean over the near and far OOD sets that both have, on the images that both have.
        difference: the challenger's mean over these minus that.
        low: of the 95 % interval.
        high: of it.
        without: near and far sets of both runs on which one of the two detectors has no score.
    """

    metric: str
    method: str
    reference: float
    difference: float
    low: float | None
    high: float | None
    without: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """``better`` or ``worse`` where the interval excludes 0, else ``no difference shown``."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if (self.difference > 0) == _LARGER_IS_BETTER[self.metric] else "worse"

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        lacking = f", without {', '.join(self.without)}" if self.without else ""
        return f"{self.difference:+.3f}{interval} ({self.outcome}{lacking})"


def against_all(
    reference: Results, challenger: Results, method: str, *, taps: tuple[str, str], replicates: int = 500, seed: int = 0
) -> list[Duel]:
    """Compare one detector with each of the reference's, on the same resampled images.

    A detector that is better than each of a set at a level is better than all at that level (an intersection-union
    test), so no interval needs widening for their number.

    Args:
        reference: a run with scores by sample.
        challenger: another on the same sets.
        method: its detector.
        taps: of the reference and of the challenger.
        replicates: bootstrap replicates.
        seed: of the resampling.

    Returns:
        By metric, the reference's best first, behind it those that lack a set.

    Raises:
        UserError: a run has no scores by sample, or the challenger did not score with ``method``.
    """
    pair = CommonSamples([reference.samples(), challenger.samples()], replicates, seed)
    own = pair.detection(1, score_column(taps[1], method))
    judged = [one for one in pair.ids if one[0] == "ood" and pair.groups[one] in OOD_GROUPS]
    found: list[Duel] = []
    for name in reference.identity["detectors"]:
        theirs = pair.detection(0, score_column(taps[0], name))
        sets = [one for one in judged if one in own and one in theirs]
        without = tuple(one[1] for one in judged if one not in sets)
        for metric in METRICS if sets else ():
            values = np.mean([own[one][metric] - theirs[one][metric] for one in sets], axis=0)
            value = float(np.mean([theirs[one][metric][0] for one in sets]))
            found.append(Duel(metric, name, value, float(values[0]), *percentile_interval(values[1:]), without))
    if not found:
        raise UserError(f"{method} at {taps[1]} has no OOD set in common with a detector at {taps[0]}: name some.")
    return sorted(
        found,
        key=lambda one: (
            one.metric,
            len(one.without),
            -one.reference if _LARGER_IS_BETTER[one.metric] else one.reference,
        ),
    )


def verdict(duels: Sequence[Duel], metric: str) -> str:
    """Whether the challenger is better than every detector of the reference, in one sentence without its full stop."""
    mine = [one for one in duels if one.metric == metric]
    outcomes = [one.outcome for one in mine]
    better, worse, best = outcomes.count("better"), outcomes.count("worse"), mine[0]
    against = f"against the best of them, {best.method} {best.reference:.3f}: {best}"
    if better == len(mine):
        return f"{metric}: better than each of the {better} detectors at the encoder; {against}"
    found = f"better than {better} and worse than {worse} of {len(mine)} at the encoder"
    return f"{metric}: NOT better than every detector, but {found}; {against}"
