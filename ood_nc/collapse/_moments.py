"""Mass, means and scatter of classes, and the updates that fold more samples into them with positive terms only."""

from __future__ import annotations

import torch
import torch.distributed

from ood_nc import accumulate

_TINY = torch.finfo(torch.float64).tiny


class Moments:
    """The float64 numbers that `ClassStatistics` gathers; blocks of checked samples in.

    Attributes:
        mass: summed weights of each class (C,).
        means: class means (C, d); 0 for a class without samples.
        class_scatter: sum of the squared distances to the class mean (C,).
        scatter: sum over all samples of (h - mu_c)(h - mu_c)' (d, d), valid on and above the diagonal; None where it is
            not kept.
        resolution: relative accuracy of the scatters.
    """

    def __init__(self, classes: int, dim: int, device: torch.device, *, full: bool) -> None:
        self.mass = torch.zeros(classes, dtype=torch.float64, device=device)
        self.means = torch.zeros(classes, dim, dtype=torch.float64, device=device)
        self.class_scatter = torch.zeros_like(self.mass)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device) if full else None
        self.resolution = float(torch.finfo(torch.float64).eps)
        self._present: torch.Tensor | None = None
        self._longest: float | None = None

    @property
    def present(self) -> torch.Tensor:
        """Indices of the classes that have mass; not a copy."""
        if self._present is None:
            self._present = self.mass.nonzero().flatten()
        return self._present

    @property
    def present_means(self) -> torch.Tensor:
        """Means (K, d) of the classes that have mass; only to be read."""
        return self.means if len(self.present) == len(self.mass) else self.means.index_select(0, self.present)

    @property
    def longest_mean(self) -> float:
        """The length of the longest class mean."""
        if self._longest is None:
            self._longest = float(torch.linalg.vector_norm(self.means, dim=1).max())
        return self._longest

    def _changed(self) -> None:
        self._present = self._longest = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by the names of `ClassStatistics.state_dict`; not copies."""
        kept = {"counts": self.mass, "means": self.means, "class_scatter": self.class_scatter}
        return kept if self.scatter is None else {**kept, "scatter": self.scatter}

    def add_block(
        self, source: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, block: torch.Tensor
    ) -> None:
        """Fold in the rows of ``source``; ``block`` takes the centred rows, and may be ``source``."""
        if 2 * len(self.mass) <= len(labels):
            # Most classes are there: to sort the labels for them would cost more than the rows of the others.
            classes, index = torch.arange(len(self.mass), device=self.mass.device), labels
        else:
            classes, index = labels.unique(return_inverse=True)
        ones = torch.ones(len(block), dtype=torch.float64, device=self.mass.device) if weights is None else weights
        mass = torch.zeros(len(classes), dtype=torch.float64, device=self.mass.device).index_add_(0, index, ones)
        sums = accumulate.class_sums(source, index, weights, len(classes))
        # A class whose samples all weigh nothing keeps mass 0: any finite centre will do, its rows are scaled by 0.
        block_means = sums.div_(mass.clamp_min(_TINY)[:, None])
        self._fold(classes, mass, block_means)
        squares = accumulate.center_rows(source, index, accumulate.split(block_means, block.dtype), block)
        self.class_scatter.index_add_(0, labels, squares if weights is None else squares * weights)
        if weights is not None:
            block.mul_(weights.sqrt()[:, None])
            squares = squares * weights
        self._add_scatter(block, squares)

    def _fold(self, classes: torch.Tensor, mass: torch.Tensor, block_means: torch.Tensor) -> None:
        """Move the class means to those of the union; turn ``block_means`` into the centres r of Chan's update."""
        old_mass = self.mass[classes]
        total = (old_mass + mass).clamp_min(_TINY)
        share, shift = (mass / total)[:, None], (old_mass / total).sqrt()[:, None]
        every = len(classes) == len(self.mass)
        for rows in accumulate.pieces(block_means):
            means = self.means[rows] if every else self.means.index_select(0, classes[rows])
            step = block_means[rows] - means
            means.addcmul_(step, share[rows])
            if not every:
                self.means[classes[rows]] = means
            block_means[rows].sub_(step.mul_(shift[rows]))
        self.mass[classes] = old_mass + mass
        self._changed()

    def _add_scatter(self, block: torch.Tensor, squares: torch.Tensor) -> None:
        if self.scatter is None or not len(block):
            return
        if block.dtype == torch.float32:
            self.resolution = max(self.resolution, float(torch.finfo(torch.float32).eps))
        accumulate.add_scatter(self.scatter, block, squares)

    def add_soft(self, block: torch.Tensor, soft: torch.Tensor) -> None:
        """Fold in float64 rows with soft labels (n, C)."""
        # Mixed samples have a few classes each: what is C x C below is then small, whatever the number of classes.
        classes = soft.any(dim=0).nonzero().flatten()
        soft = soft[:, classes]
        mass, means, class_scatter, rows, mixture = _soft_scatter(block, soft)
        self.class_scatter.index_add_(0, classes, class_scatter)
        if self.scatter is not None:
            accumulate.add_product(self.scatter, rows)
            centered = means - means.mean(dim=0)
            self.scatter += centered.T @ (_laplacian(soft, mixture) @ centered)
        self._combine(classes, mass, means)

    def merge(self, other: Moments) -> None:
        """Add the moments of other samples."""
        device, classes = self.mass.device, other.present
        self._combine(*(part.to(device) for part in (classes, other.mass[classes], other.means[classes])))
        self.class_scatter += other.class_scatter.to(device)
        if self.scatter is not None and other.scatter is not None:
            self.scatter += other.scatter.to(device)
        self.resolution = max(self.resolution, other.resolution)

    def all_reduce(self, group: torch.distributed.ProcessGroup | None) -> None:
        """Add the moments of all processes, in each of them.

        The means are reduced first; each process then moves its scatter to the common means, so that the sums to reduce
        hold only positive terms.
        """
        local_mass, weighted = self.mass.clone(), self.means * self.mass[:, None]
        for tensor in (self.mass, weighted):
            torch.distributed.all_reduce(tensor, group=group)
        resolution = torch.tensor([self.resolution], dtype=torch.float64, device=self.mass.device)
        torch.distributed.all_reduce(resolution, op=torch.distributed.ReduceOp.MAX, group=group)
        means = weighted / self.mass.clamp_min(_TINY)[:, None]
        every_class = torch.arange(len(means), device=means.device)
        self._add_deviations(every_class, self.means - means, local_mass)
        self.means, self.resolution = means, float(resolution)
        self._changed()
        for scatter in (self.class_scatter, self.scatter):
            if scatter is not None:
                torch.distributed.all_reduce(scatter, group=group)

    def _combine(self, classes: torch.Tensor, mass: torch.Tensor, means: torch.Tensor) -> None:
        """Chan's update of mass, means and the scatter between the two sets of means of some classes."""
        old_mass = self.mass[classes]
        fraction = mass / (old_mass + mass).clamp_min(_TINY)
        step = means - self.means[classes]
        self._add_deviations(classes, step, old_mass * fraction)
        self.means[classes] += step * fraction[:, None]
        self.mass[classes] += mass
        self._changed()

    def _add_deviations(self, classes: torch.Tensor, deviations: torch.Tensor, mass: torch.Tensor) -> None:
        """Add ``mass[c] * deviations[c] deviations[c]'`` for some classes."""
        scaled = deviations * mass.sqrt()[:, None]
        self.class_scatter.index_add_(0, classes, scaled.square().sum(dim=1))
        if self.scatter is not None:
            accumulate.add_product(self.scatter, scaled)


def _soft_scatter(
    block: torch.Tensor, soft: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split the scatter of a softly labelled block into a part of its rows and a part of its class means.

    With t_ic the labels, w_i their sum, b_c the class means of the block and m_i = sum_c t_ic b_c / w_i, the scatter
    sum_ic t_ic (h_i - b_c)(h_i - b_c)' equals sum_i w_i (h_i - m_i)(h_i - m_i)' + sum_{c<k} a_ck D_ck with
    a_ck = sum_i t_ic t_ik / w_i and D_ck = (b_c - b_k)(b_c - b_k)'. Hard labels make every a_ck zero.

    Args:
        block: (n, d), float64.
        soft: (n, C), float64, not negative.

    Returns:
        mass (C,); class means (C, d); scatter of each class (C,); rows sqrt(w_i) (h_i - m_i) (n, d); the mixture
        t_ic / w_i (n, C), for `_laplacian`.
    """
    mass, weight = soft.sum(dim=0), soft.sum(dim=1)
    origin = block.mean(dim=0)
    means = soft.T @ (block - origin) / mass.clamp_min(_TINY)[:, None] + origin
    mixture = soft / weight.clamp_min(_TINY)[:, None]
    rows = (block - origin - mixture @ (means - origin)) * weight.sqrt()[:, None]
    # The differences are formed before they are squared: classes that have collapsed keep their digits.
    distances = torch.cdist(block, means, compute_mode="donot_use_mm_for_euclid_dist")
    return mass, means, (soft * distances.square()).sum(dim=0), rows, mixture


def _laplacian(soft: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Laplacian L (C, C) of the a_ck of `_soft_scatter`: its second part is B' L B, the means B around any origin."""
    shared = soft.T @ mixture
    shared.fill_diagonal_(0)
    return torch.diag(shared.sum(dim=1)) - shared
