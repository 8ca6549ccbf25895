"""Multi-label neural collapse: images with any number of labels, grouped by their set of labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.collapse.report import CollapseReport, measure
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


@dataclass(frozen=True)
class Multiplicity:
    """Collapse of the images that have m labels.

    Attributes:
        labels: m.
        samples: how many images.
        sets: how many different label sets.
        nc1: tr Sigma_W / tr Sigma_B with label sets as classes; None for fewer than two sets. (There are more sets than
            directions between them, which a pseudo-inverse cannot tell from noise.)
        angle: mean angle in degrees between mu_S and the sum of mu_k over k in S; None for m = 1.
        angle_ratio: that, over the mean angle of all pairs of a mu_S with the sum of *another* set: 0 where every set's
            mean is in the direction of the sum of its labels' means ("tag-wise average").
        scale_spread: standard deviation over mean of the factors c in mu_S = c sum mu_k, fitted by least squares: 0
            where the factor depends on m alone.
        set_angles: the angles that ``angle`` is the mean of, a set each.
        set_labels: the labels of each of those sets.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import measure_multilabel
        >>> rows = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0.7, 0.7], [0.7, 0.7]])
        >>> sets = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [1, 1]])
        >>> measure_multilabel(rows, sets).by_multiplicity[1].samples
        2
    """

    labels: int
    samples: int
    sets: int
    nc1: float | None
    angle: float | None = None
    angle_ratio: float | None = None
    scale_spread: float | None = None
    set_angles: tuple[float, ...] = ()
    set_labels: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class MultilabelReport:
    """Multi-label collapse of one layer.

    Attributes:
        single: every metric of `measure` on the images with one label, W and b among it where they were given.
        by_multiplicity: for each m that occurs, m = 1 first.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import measure_multilabel
        >>> rows = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
        >>> report = measure_multilabel(rows, torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]))
        >>> report.to_dict()["mlab_nc1_m1"], report.single.nc1_ratio
        (0.0, 0.0)
    """

    single: CollapseReport
    by_multiplicity: tuple[Multiplicity, ...]

    def to_dict(self) -> dict[str, float | None]:
        """The numbers of ``by_multiplicity`` as ``mlab_<name>_m<m>``, then those of ``single`` by name."""
        names = ("nc1", "angle", "angle_ratio", "scale_spread")
        found = {
            f"mlab_{name}_m{one.labels}": getattr(one, name)
            for one in self.by_multiplicity
            for name in names
            if one.labels > 1 or name == "nc1"
        }
        return {**found, **self.single.to_dict()}


def measure_multilabel(
    features: ArrayLike, label_sets: ArrayLike, *, weight: ArrayLike | None = None, bias: ArrayLike | None = None
) -> MultilabelReport:
    """Measure multi-label collapse (MLab-NC) of one layer.

    The class means mu_k, and the global mean that all means are taken about, are those of the images with one label:
    there NC1 to NC3 are the usual ones. An image with more labels belongs to the class of its set.

    Args:
        features: (N, d).
        label_sets: (N, K) of 0 and 1, each row with a 1.
        weight: W (K, d) of the head, for NC2 of W and NC3.
        bias: (K,).

    Raises:
        UserError: shapes that do not fit, an image without a label, or no image with one label.

    Source: Li, Li, Wang, Qu (ICML 2024), section 3. Their code divides the global mean by the number of all images;
    here it is the mean of the images that it is about. Matched pairs are no part of the mean over other pairs.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import measure_multilabel
        >>> tags = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> pairs = torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]])
        >>> means = torch.eye(3) - 1 / 3  # a simplex ETF
        >>> report = measure_multilabel(torch.cat([tags @ means, 0.8 * pairs @ means]), torch.cat([tags, pairs]))
        >>> report.single.nc1_pinv, abs(round(report.by_multiplicity[1].angle_ratio, 3))
        (0.0, 0.0)
    """
    matrix = as_matrix(features)
    sets = as_tensor(label_sets, "label_sets").to(matrix.device)
    if sets.ndim != 2 or len(sets) != len(matrix):
        raise UserError(f"label_sets must have shape ({len(matrix)}, K), got {tuple(sets.shape)}.")
    if not bool(((sets == 0) | (sets == 1)).all()):
        raise UserError("label_sets must hold 0 and 1 alone.")
    sets = sets.bool()
    sizes = sets.sum(dim=1)
    if not bool((sizes > 0).all()):
        raise UserError("label_sets has an image without a label: leave it out.")
    one = sizes == 1
    if not bool(one.any()):
        raise UserError("No image has one label alone: the class means come from such images.")
    stats = ClassStatistics(sets.shape[1], matrix.shape[1], device=matrix.device)
    stats.update(matrix[one], sets[one].int().argmax(dim=1))
    tags = torch.zeros(sets.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    tags[stats.present] = stats.centered_means()
    origin = stats.global_mean
    known = torch.zeros(sets.shape[1], dtype=torch.bool, device=matrix.device)
    known[stats.present] = True
    found = [_multiplicity(int(m), matrix[sizes == m], sets[sizes == m], tags, known, origin) for m in sizes.unique()]
    return MultilabelReport(measure(stats, weight=weight, bias=bias), tuple(found))


def _multiplicity(
    m: int, matrix: torch.Tensor, sets: torch.Tensor, tags: torch.Tensor, known: torch.Tensor, origin: torch.Tensor
) -> Multiplicity:
    unique, group = sets.unique(dim=0, return_inverse=True)
    stats = ClassStatistics(len(unique), matrix.shape[1], device=matrix.device).update(matrix, group)
    nc1 = measure(stats, metrics=["nc1_ratio"]).nc1_ratio if len(unique) > 1 else None
    if m == 1:
        return Multiplicity(m, len(matrix), len(unique), nc1)
    whole = (unique & ~known).sum(dim=1) == 0  # a label that is never alone has no mean to add
    sums = unique[whole].double() @ tags
    means = stats.uncentered_means[whole] - origin
    cosines = _cosines(means, sums)
    if cosines is None:
        return Multiplicity(m, len(matrix), len(unique), nc1)
    angles = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
    matched, count = angles.diagonal().mean(), len(angles)
    ratio = None
    if count > 1:
        others = (angles.sum() - angles.diagonal().sum()) / (count * (count - 1))
        ratio = float(matched / others) if others > 0 else None
    scales = (means * sums).sum(dim=1) / sums.square().sum(dim=1)
    spread = float(scales.std(correction=0) / scales.mean().abs()) if scales.mean() != 0 else None
    each = tuple(angles.diagonal().tolist()), tuple(tuple(row.nonzero()[:, 0].tolist()) for row in unique[whole])
    return Multiplicity(m, len(matrix), len(unique), nc1, float(matched), ratio, spread, *each)


def _cosines(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
    """Cosine of each row with each column; None where there are none, or one has no direction."""
    lengths = [torch.linalg.vector_norm(part, dim=1) for part in (rows, columns)]
    if not len(rows) or not all(bool((length > 0).all()) for length in lengths):
        return None
    return torch.mm(rows / lengths[0][:, None], (columns / lengths[1][:, None]).T)
