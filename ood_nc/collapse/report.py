"""`measure`: every collapse metric of one layer at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache

import torch

from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.collapse import decision, entropy, frames, geometry, imbalance, spectrum, variability
from ood_nc.collapse._common import Center, UndefinedMetricError, as_bias, as_head, row_blocks
from ood_nc.collapse.registry import METRICS
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError, nearest


@dataclass(frozen=True)
class CollapseReport:
    """The metrics of `METRICS` for one layer; None where undefined, with the reason under its name in ``reasons``.

    Attributes:
        num_samples: samples that went into the statistics.
        num_classes: classes that have samples, the C of every formula.
        dim: feature columns d.
        reasons: why each undefined metric is undefined.
        notes: what a reader of the numbers should know (classes without or with one sample, C > d + 1).
    """

    num_samples: int
    num_classes: int
    dim: int
    trace_within: float | None = None
    trace_between: float | None = None
    within_share: float | None = None
    nc1_pinv: float | None = None
    nc1_ratio: float | None = None
    nc1_ratio_balanced: float | None = None
    cdnv: float | None = None
    vci: float | None = None
    nc2_norm: float | None = None
    nc2_angle: float | None = None
    nc2_etf_means: float | None = None
    nc2_etf: float | None = None
    nc2_norm_head: float | None = None
    nc2_angle_head: float | None = None
    nc3_duality: float | None = None
    nc3_papyan: float | None = None
    nc3_alignment: float | None = None
    nc4_ncc: float | None = None
    ncc_accuracy: float | None = None
    nc4_bias: float | None = None
    nc5_ortho: float | None = None
    gnc2_frame: float | None = None
    gnc2_margin: float | None = None
    gnc2_uniformity: float | None = None
    uniformity: float | None = None
    gnc2_frame_head: float | None = None
    gnc2_margin_head: float | None = None
    gnc2_uniformity_head: float | None = None
    uniformity_head: float | None = None
    minority_collapse: float | None = None
    nc2_seli: float | None = None
    effective_rank: float | None = None
    effective_rank_uncentered: float | None = None
    entropy_nn: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def paper(self) -> dict[str, float | None]:
        """Return NC1 to NC4 under the names of Harun et al. (ICML 2025), for statistics of ID train and a fresh probe.

        Their NC4 is |W mu_G + b|; the NC4 of Papyan et al. is `nc4_ncc`.
        """
        return {"NC1": self.nc1_pinv, "NC2": self.nc2_etf, "NC3": self.nc3_duality, "NC4": self.nc4_bias}

    def to_dict(self) -> dict[str, float | None]:
        """Return the metrics by name, in the order of `METRICS`."""
        return {name: getattr(self, name) for name in METRICS}


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
    """
    unknown = sorted(set(metrics or ()) - set(METRICS))
    if unknown:
        raise UserError(f"unknown collapse metric {unknown[0]!r}.{nearest(unknown[0], METRICS)}")
    functions = _of_statistics(stats, center)
    functions |= _of_weight(stats, weight, bias, center)
    functions |= _of_samples(reference or stats, features, labels, predictions, weight, bias)
    functions["entropy_nn"] = lambda: entropy.entropy_nn(
        _given(features, "features"), max_samples=entropy_samples, seed=seed
    )
    functions["nc5_ortho"] = lambda: decision.nc5_ortho(stats, _given(ood, "ood"))
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in METRICS:
        if metrics is not None and name not in metrics:
            reasons[name] = "not asked for."
            continue
        try:
            value = functions[name]()
            if not math.isfinite(value):
                raise UndefinedMetricError("the value is beyond the range of float64.")
            values[name] = value
        except UndefinedMetricError as reason:
            reasons[name] = str(reason)
    return CollapseReport(
        num_samples=stats.num_samples,
        num_classes=len(stats.present),
        dim=stats.dim,
        reasons=reasons,
        notes=tuple(_notes(stats)),
        **values,
    )


def _of_statistics(stats: ClassStatistics, center: Center) -> dict[str, Callable[[], float]]:
    # One pass over the pairs of classes serves four metrics.
    directions = cache(lambda: geometry.direction_summary(stats, center))
    return {
        "trace_within": lambda: variability.trace_within(stats),
        "trace_between": lambda: variability.trace_between(stats, center),
        "within_share": lambda: variability.within_share(stats, center),
        "nc1_pinv": lambda: variability.nc1_pinv(stats, center),
        "nc1_ratio": lambda: variability.nc1_ratio(stats, center),
        "nc1_ratio_balanced": lambda: variability.nc1_ratio_balanced(stats, center),
        "cdnv": lambda: variability.cdnv(stats),
        "vci": lambda: variability.vci(stats, center),
        "nc2_norm": lambda: geometry.nc2_norm(stats, center),
        "nc2_angle": lambda: directions().angle,
        "nc2_etf_means": lambda: geometry.nc2_etf_means(stats, center),
        "gnc2_frame": lambda: frames.gnc2_frame(stats, center),
        "gnc2_margin": lambda: frames.margin_gap(directions().closest, stats.dim),
        "gnc2_uniformity": lambda: frames.log_variation(directions()),
        "uniformity": lambda: directions().potential,
        "effective_rank": lambda: spectrum.effective_rank(stats),
        "effective_rank_uncentered": lambda: spectrum.effective_rank(stats, centered=False),
    }


def _of_weight(
    stats: ClassStatistics, weight: ArrayLike | None, bias: ArrayLike | None, center: Center
) -> dict[str, Callable[[], float]]:
    # One pass over the pairs of rows serves four metrics.
    directions = cache(lambda: geometry.head_summary(_given(weight, "weight")))
    return {
        "nc2_etf": lambda: geometry.nc2_etf(_given(weight, "weight")),
        "nc2_norm_head": lambda: geometry.nc2_norm_head(_given(weight, "weight")),
        "nc2_angle_head": lambda: directions().angle,
        "nc3_duality": lambda: geometry.nc3_duality(stats, _given(weight, "weight"), center),
        "nc3_papyan": lambda: geometry.nc3_papyan(stats, _given(weight, "weight"), center),
        "nc3_alignment": lambda: geometry.nc3_alignment(stats, _given(weight, "weight"), center),
        "nc4_bias": lambda: decision.nc4_bias(stats, _given(weight, "weight"), _finite(bias, "bias")),
        "gnc2_frame_head": lambda: frames.gnc2_frame_head(_given(weight, "weight")),
        "gnc2_margin_head": lambda: frames.margin_gap(directions().closest, stats.dim),
        "gnc2_uniformity_head": lambda: frames.log_variation(directions()),
        "uniformity_head": lambda: directions().potential,
        "minority_collapse": lambda: imbalance.minority_collapse(stats, _given(weight, "weight")),
        "nc2_seli": lambda: imbalance.nc2_seli(stats, _given(weight, "weight")),
    }


def _of_samples(
    stats: ClassStatistics,
    features: ArrayLike | None,
    labels: ArrayLike | None,
    predictions: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
) -> dict[str, Callable[[], float]]:
    # One pass over the samples serves both metrics.
    nearest_classes = cache(lambda: decision.nearest_means(stats, _given(features, "features")))

    def disagreement() -> float:
        given = _given(features, "features")
        predicted = predictions
        if predicted is None:
            predicted = head_predictions(given, _given(weight, "predictions or weight"), _finite(bias, "bias"))
        return decision.share(nearest_classes(), predicted, "predictions", equal=False)

    def accuracy() -> float:
        _given(features, "features")
        return decision.share(nearest_classes(), _given(labels, "labels"), "labels", equal=True)

    return {"nc4_ncc": disagreement, "ncc_accuracy": accuracy}


def head_predictions(features: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> torch.Tensor:
    """Class (N,) that a linear head assigns: argmax of W h + b, in blocks of rows, in the precision of the features.

    In float32 at least, also under autocast; in float64 where float32 products are relaxed (TF32).

    Raises:
        UserError: shapes that do not fit.
    """
    matrix = as_matrix(features)
    relaxed = torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if matrix.dtype == torch.float64 or relaxed else torch.float32
    head = as_head(weight, matrix.shape[1]).to(matrix.device, dtype)
    offset = torch.zeros(len(head)) if bias is None else as_bias(bias, len(head))
    offset = offset.to(matrix.device, dtype)
    result = torch.empty(len(matrix), dtype=torch.long, device=matrix.device)
    with torch.autocast(matrix.device.type, enabled=False):
        for rows in row_blocks(len(matrix), len(head)):
            result[rows] = torch.addmm(offset, matrix[rows].to(dtype), head.T).argmax(dim=1)
    return result


def _given(value: ArrayLike | None, name: str) -> ArrayLike:
    if value is None:
        raise UndefinedMetricError(f"needs {name}.")
    _finite(value, name)
    return value


def _finite(value: ArrayLike | None, name: str) -> ArrayLike | None:
    if value is not None and not bool(torch.isfinite(as_tensor(value, name)).all()):
        raise UndefinedMetricError(f"{name} holds NaN or infinity.")
    return value


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
        floor = frames.etf_floor(present, stats.dim)
        notes.append(
            f"C = {present} > d + 1 = {stats.dim + 1}: no simplex ETF exists; nc2_etf, nc2_etf_means and nc3_duality "
            f"are at least {floor:.4f}; gnc2_frame and gnc2_margin use a reference that exists."
        )
    return notes
