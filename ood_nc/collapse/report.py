"""`measure`: every collapse metric of one layer at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ood_nc.arrays import ArrayLike
from ood_nc.collapse._common import Center, UndefinedMetricError
from ood_nc.collapse.frames import etf_floor
from ood_nc.collapse.layer import Layer
from ood_nc.collapse.registry import METRICS
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError, nearest
from ood_nc.notebook import data_frame, html_table, short


@dataclass(frozen=True, repr=False)
class CollapseReport:
    """The metrics of `METRICS` for one layer, each an attribute; None where undefined, with the reason in ``reasons``.

    Attributes:
        num_samples: samples that went into the statistics.
        num_classes: classes that have samples, the C of every formula.
        dim: feature columns d.
        values: the metrics by name.
        reasons: why each undefined metric is undefined.
        notes: what a reader of the numbers should know (classes without or with one sample, C > d + 1).

    Example:
        >>> from ood_nc.collapse import ClassStatistics, measure
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> report = measure(stats, metrics=["cdnv"])
        >>> report.cdnv, report.num_samples
        (0.04, 4)
    """

    num_samples: int
    num_classes: int
    dim: int
    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> float | None:
        try:
            value: float | None = self.__dict__["values"][name]
            return value
        except KeyError:
            raise AttributeError(f"No collapse metric {name!r}.{nearest(name, METRICS)}") from None

    def paper(self) -> dict[str, float | None]:
        """Return NC1 to NC4 under the names of Harun et al. (ICML 2025), for statistics of ID train and a fresh probe.

        Their NC4 is |W mu_G + b|; the NC4 of Papyan et al. is `nc4_ncc`.
        """
        return {"NC1": self.nc1_pinv, "NC2": self.nc2_etf, "NC3": self.nc3_duality, "NC4": self.nc4_bias}

    def to_pandas(self) -> Any:
        """A row a metric: its name, value, and why it is undefined, as a ``pandas.DataFrame``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        reasons = [self.reasons.get(name) for name in self.values]
        return data_frame({"metric": list(self.values), "value": list(self.values.values()), "reason": reasons})

    def __repr__(self) -> str:
        known = [f"{name}={value:.3g}" for name, value in self.values.items() if value is not None]
        more = f", {len(known) - 3} more" if len(known) > 3 else ""
        sizes = f"{self.num_samples} samples, {self.num_classes} classes, d={self.dim}"
        return f"CollapseReport({sizes}: {', '.join(known[:3]) or 'nothing defined'}{more})"

    def _repr_html_(self) -> str:
        rows = [(name, short(value), self.reasons.get(name, "")) for name, value in self.values.items()]
        return html_table(("metric", "value", "why undefined"), rows, caption=repr(self))

    def to_dict(self) -> dict[str, float | None]:
        """Return the metrics by name, in the order of `METRICS`."""
        return dict(self.values)


def measure(
    stats: ClassStatistics,
    *,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    features: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
    ood: ArrayLike | None = None,
    reference: ClassStatistics | None = None,
    center: Center = "classes",
    metrics: Collection[str] | None = None,
    entropy_samples: int = 4096,
    seed: int = 0,
) -> CollapseReport:
    """Return every collapse metric that the arguments allow; the others are None with a reason.

    Args:
        stats: class statistics of the layer, on the train or the held-out split.
        weight: head or probe W (C, d); name it beside the result.
        bias: b (C,); none counts as zeros.
        features: the samples (N, d), for the metrics that need a second pass.
        labels: their classes (N,).
        predictions: the head's classes (N,); computed from W and b when not given.
        ood: OOD features (N', d) or their mean (d,), for nc5_ortho.
        reference: statistics whose class means the nearest-class-mean metrics use: those of the training split when
            ``stats`` and ``features`` are held out. ``stats`` when not given.
        center: the global mean, unweighted over classes or over samples.
        metrics: names to compute; all when not given.
        entropy_samples: random subset that entropy_nn is computed on (its search is quadratic).
        seed: of that subset.

    A metric of an array with NaN or infinity is undefined too: no value of the report is NaN or infinite.

    Raises:
        UserError: an unknown name in ``metrics``, ``entropy_samples`` below 2, or arrays whose shapes do not fit.

    Example:
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> report = measure(stats)
        >>> report.nc1_ratio, report.nc4_bias, report.reasons["nc4_bias"]
        (0.16, None, 'needs weight.')
    """
    names = list(METRICS) if metrics is None else [METRICS[name].name for name in metrics]
    layer = Layer(
        stats,
        weight=weight,
        bias=bias,
        features=features,
        labels=labels,
        predictions=predictions,
        ood=ood,
        reference=reference,
        center=center,
        entropy_samples=entropy_samples,
        seed=seed,
    )
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    reasons = {name: "not asked for." for name in METRICS if name not in names}
    for name in names:
        try:
            value = float(METRICS[name].compute(layer))
            if not math.isfinite(value):
                raise UndefinedMetricError("the value is beyond the range of float64.")
            values[name] = value
        except UndefinedMetricError as reason:
            reasons[name] = str(reason)
        except UserError:
            raise
        except Exception as error:  # another package's metric must cost neither the others nor the run
            reasons[name] = f"{type(error).__name__}: {error}"
    return CollapseReport(
        num_samples=stats.num_samples,
        num_classes=len(stats.present),
        dim=stats.dim,
        values=values,
        reasons=reasons,
        notes=tuple(_notes(stats)),
    )


def _notes(stats: ClassStatistics) -> list[str]:
    counts = stats.counts
    empty, single = int((counts == 0).sum()), int((counts == 1).sum())
    present = len(stats.present)
    notes = []
    if empty:
        notes.append(f"{empty} of {stats.num_classes} classes have no samples and are left out: C = {present}.")
    if single:
        notes.append(f"{single} classes have one sample: their variance counts as 0.")
    if present > stats.dim + 1:
        floor = etf_floor(present, stats.dim)
        notes.append(
            f"C = {present} > d + 1 = {stats.dim + 1}: no simplex ETF exists; nc2_etf, nc2_etf_means and nc3_duality "
            f"are at least {floor:.4f}; gnc2_frame and gnc2_margin use a reference that exists."
        )
    return notes
