"""Streaming class statistics: counts, class means, within-class scatter, from one pass over the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed

from ood_nc import accumulate
from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.collapse._common import Center, UndefinedMetricError
from ood_nc.collapse._moments import Moments
from ood_nc.collapse._pending import WIDE, Pending, check_finite
from ood_nc.errors import UserError

# A smaller block wastes the matrix product, a larger one memory; at least d rows where d is large.
_BLOCK_BYTES = 1 << 23
_SOFT_ROWS = 1024


class ClassStatistics:
    """Class counts, class means and within-class scatter, accumulated in float64 in one pass.

    Each block of samples is folded in by Chan, Golub and LeVeque's update (1979) of mean and scatter. The scatter of
    the union of old samples (mass W, mean m) and a block (mass w, mean b) is S + sum (h - b)(h - b)' + (W w/(W + w))
    (b - m)(b - m)'. As the deviations from b add up to zero, the last two terms equal the one sum over the block of
    (h - r)(h - r)' with r = b + sqrt(W/(W + w)) (m - b): one symmetric product, no correction rows, only positive
    terms, so nothing cancels. Features of up to 32 bits are centred in float64, multiplied in float32 within a block of
    rows and added up in float64 (relative error about 1e-7 of the scatter, `resolution`); float64 features stay
    in float64.

    Samples are gathered into blocks of a fixed number of rows, so the result does not depend on how they arrive. Any
    number of threads may read the statistics at once, while none adds to them. Memory is O(C d + d^2), or O(C d) with
    ``full=False``: then the metrics that need the d x d scatter are undefined.

    Args:
        num_classes: number of classes C; labels are 0 to C - 1.
        dim: number of feature columns d.
        device: where the statistics live; batches are moved there.
        full: keep the d x d within-class scatter. Without it remain all `METRICS` but those of memory ``O(C d + d^2)``.
        exact: multiply in float64 whatever the dtype of the features.

    Example:
        >>> stats = ClassStatistics(num_classes=2, dim=1)
        >>> stats.update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1]).means.flatten().tolist()
        [1.0, 6.0]
    """

    def __init__(
        self, num_classes: int, dim: int, *, device: torch.device | str = "cpu", full: bool = True, exact: bool = False
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise UserError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}.")
        self.num_classes = num_classes
        self.dim = dim
        self.full = full
        self.exact = exact
        self.device = torch.device(device)
        self.num_samples = 0
        self._moments = Moments(num_classes, dim, self.device, full=full)
        self._largest = 0.0
        self._pending = Pending()

    @torch.no_grad()
    def update(self, features: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> ClassStatistics:
        """Add one batch and return itself.

        Args:
            features: (N, d) of any floating dtype, on any device; never changed.
            labels: class indices (N,), or soft labels (N, C), not negative: sample i counts labels[i, c] times in c.
            weights: importance of each sample (N,), not negative; multiplies soft labels.

        Raises:
            UserError: shapes that do not fit, labels outside 0..C-1, negative weights, values that are not finite. The
                statistics are unchanged then.
        """
        matrix = as_matrix(features)
        if matrix.shape[1] != self.dim:
            raise UserError(f"features have {matrix.shape[1]} columns, the statistics were made for {self.dim}.")
        target = as_tensor(labels, "labels").to(self.device)
        sample_weights = self._check_weights(weights, len(matrix))
        self._largest = max(self._largest, check_finite(matrix))
        with torch.autocast(self.device.type, enabled=False):
            if target.ndim == 2:
                self._update_soft(matrix, target, sample_weights)
            else:
                self._update_hard(matrix, as_labels(target, len(matrix), num_classes=self.num_classes), sample_weights)
        self.num_samples += len(matrix)
        return self

    def _update_hard(self, matrix: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> None:
        dtype = self._product_dtype(matrix)
        whole = weights is None and matrix.dtype == dtype and matrix.device == self.device
        row_bytes = self.dim * dtype.itemsize
        start, size = 0, max(64, _BLOCK_BYTES // row_bytes, min(self.dim, (1 << 24) // row_bytes))
        while start < len(matrix):
            if not self._pending.accepts(dtype, weights is not None):
                self._flush()
                self._pending.open(size, self.dim, dtype, self.device, weights is not None)
            if whole and not self._pending.rows and len(matrix) - start >= size:
                # A block that the caller holds complete is read where it is.
                rows = slice(start, start + size)
                self._moments.add_block(matrix[rows], labels[rows], None, self._pending.room())
                start += size
                continue
            start += self._pending.fill(matrix, labels, weights, start)
            if self._pending.is_full:
                self._flush()

    def _update_soft(self, matrix: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> None:
        if target.shape != (len(matrix), self.num_classes):
            raise UserError(
                f"soft labels must have shape ({len(matrix)}, {self.num_classes}), got {tuple(target.shape)}."
            )
        soft = target.double()
        if not bool(torch.isfinite(soft).all()) or bool((soft < 0).any()):
            raise UserError("soft labels must be finite and not negative.")
        if weights is not None:
            soft = soft * weights[:, None]
        self._flush()
        for start in range(0, len(matrix), _SOFT_ROWS):
            rows = slice(start, start + _SOFT_ROWS)
            self._moments.add_soft(matrix[rows].to(self.device, torch.float64), soft[rows])

    def _check_weights(self, weights: ArrayLike | None, rows: int) -> torch.Tensor | None:
        if weights is None:
            return None
        values = as_tensor(weights, "weights").to(self.device).double()
        if values.shape != (rows,):
            raise UserError(f"weights must have shape ({rows},), got {tuple(values.shape)}.")
        if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            raise UserError("weights must be finite and not negative.")
        return values

    def _product_dtype(self, matrix: torch.Tensor) -> torch.dtype:
        # A relaxed float32 matrix product (TF32, bfloat16) would cost four digits.
        unfit = torch.get_float32_matmul_precision() != "highest" or self._largest > WIDE
        wide = matrix.dtype == torch.float64 or self.exact or unfit
        return torch.float64 if wide else torch.float32

    def _flush(self) -> None:
        if self._pending.rows:
            block, labels, weights = self._pending.take()
            self._moments.add_block(block, labels, weights, block)

    def _settled(self) -> Moments:
        """Count the samples that wait, and give back the memory that accumulating needs."""
        pending = self._pending
        if pending.is_open:
            with pending.settling:
                if self._pending is pending:  # else another thread that reads has counted them
                    self._flush()
                    self._pending = Pending()
        return self._moments

    def __getstate__(self) -> dict[str, Any]:
        self._settled()
        return {name: value for name, value in self.__dict__.items() if name != "_pending"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pending = Pending()

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Add the statistics of other samples, in place, and return itself; ``other`` is unchanged.

        Raises:
            UserError: other classes, dimension or kind of statistics.
        """
        if (other.num_classes, other.dim, other.full) != (self.num_classes, self.dim, self.full):
            raise UserError(
                f"cannot merge statistics of {other.num_classes} classes, {other.dim} columns, full={other.full} into "
                f"{self.num_classes} classes, {self.dim} columns, full={self.full}."
            )
        self._settled().merge(other._settled())
        self.num_samples += other.num_samples
        self._largest = max(self._largest, other._largest)
        return self

    @torch.no_grad()
    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> ClassStatistics:
        """Give every process the statistics of all processes' samples, in place, and return itself.

        Communicates O(C d + d^2) numbers. Does nothing without an initialised process group.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        moments = self._settled()
        samples = torch.tensor([self.num_samples], device=self.device)
        torch.distributed.all_reduce(samples, group=group)
        moments.all_reduce(group)
        self.num_samples = int(samples)
        return self

    @property
    def counts(self) -> torch.Tensor:
        """Samples of each class (C,), float64; the sum of their weights where weights or soft labels were given."""
        return self._settled().mass.clone()

    @property
    def present(self) -> torch.Tensor:
        """Indices of the classes that have samples, ascending."""
        return self._settled().present.clone()

    @property
    def means(self) -> torch.Tensor:
        """Class means (C, d), float64; the rows of classes without samples are NaN."""
        moments = self._settled()
        return moments.means.masked_fill((moments.mass == 0)[:, None], torch.nan)

    @property
    def class_variances(self) -> torch.Tensor:
        """v_c = (1/n_c) sum |h - mu_c|^2 (C,), float64; NaN for classes without samples, 0 for one sample."""
        moments = self._settled()
        return moments.class_scatter / moments.mass.masked_fill(moments.mass == 0, torch.nan)

    @property
    def global_mean(self) -> torch.Tensor:
        """Unweighted mean (d,) of the means of the classes that have samples."""
        return self._of_samples().present_means.mean(dim=0)

    @property
    def sample_mean(self) -> torch.Tensor:
        """Mean (d,) over all samples, weighted as they are."""
        moments = self._of_samples()
        return (moments.mass / moments.mass.sum()) @ moments.means

    @property
    def uncentered_means(self) -> torch.Tensor:
        """Means (K, d) of the K classes that have samples."""
        moments = self._of_samples()
        return moments.means.index_select(0, moments.present)

    @property
    def longest_mean(self) -> float:
        """Length of the longest class mean."""
        return self._of_samples().longest_mean

    @property
    def scatter_traces(self) -> torch.Tensor:
        """n_c v_c (C,): the trace of each class's share of the within-class scatter; 0 for classes without samples."""
        return self._of_samples().class_scatter.clone()

    def centered_means(self, center: Center = "classes") -> torch.Tensor:
        """M (K, d): means of the K classes that have samples, minus their mean or minus the sample mean."""
        if center not in ("classes", "samples"):
            raise UserError(f"center must be 'classes' or 'samples', got {center!r}.")
        origin = self.global_mean if center == "classes" else self.sample_mean
        return self._of_samples().present_means - origin

    @property
    def within(self) -> torch.Tensor:
        """Sigma_W = (1/N) sum (h - mu_c)(h - mu_c)' (d, d), float64.

        Raises:
            UndefinedMetricError: the statistics were made with ``full=False``.
        """
        return accumulate.fill_lower(self.require_scatter() / self._moments.mass.sum())

    def require_scatter(self) -> torch.Tensor:
        """The accumulated scatter N Sigma_W, valid above the diagonal; not a copy, only to be read.

        Raises:
            UndefinedMetricError: the statistics were made with ``full=False``, or have no samples.
        """
        scatter = self._of_samples().scatter
        if scatter is None:
            raise UndefinedMetricError("needs the d x d scatter, and the statistics were made with full=False.")
        return scatter

    @property
    def largest_variance(self) -> float:
        """The largest diagonal entry of Sigma_W."""
        return float(self.require_scatter().diagonal().max() / self._moments.mass.sum())

    def within_plus(self, rows: torch.Tensor) -> torch.Tensor:
        """Sigma_W + R'R (d, d) for rows R (K, d), float64; only the entries on and above the diagonal are valid.

        Raises:
            UndefinedMetricError: as `within`.
        """
        total = self.require_scatter() / self._moments.mass.sum()
        accumulate.add_product(total, rows)
        return total

    @property
    def between(self) -> torch.Tensor:
        """Sigma_B = (1/C) M'M (d, d), float64, over the classes that have samples."""
        means = self.centered_means()
        return means.T @ means / len(means)

    @property
    def resolution(self) -> float:
        """Relative accuracy of the within-class scatter: that of float64, or of float32 after float32 products."""
        return self._settled().resolution

    def _of_samples(self) -> Moments:
        moments = self._settled()
        if not len(moments.present):
            raise UndefinedMetricError("no samples.")
        return moments

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state as tensors, for `torch.save` or safetensors."""
        moments = self._settled()
        state = {name: tensor.clone() for name, tensor in moments.tensors().items()}
        state["num_samples"] = torch.tensor(self.num_samples)
        state["resolution"] = torch.tensor(moments.resolution, dtype=torch.float64)
        state["exact"] = torch.tensor(self.exact)
        return state

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, torch.Tensor], *, device: torch.device | str = "cpu"
    ) -> ClassStatistics:
        """Rebuild the statistics that `state_dict` described.

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        missing = {"counts", "means", "class_scatter", "num_samples", "resolution"} - set(state)
        if missing:
            raise UserError(f"not the state of class statistics: {', '.join(sorted(missing))} missing.")
        if state["means"].ndim != 2:
            raise UserError(f"not the state of class statistics: means have shape {tuple(state['means'].shape)}.")
        classes, dim = state["means"].shape
        shapes = {"counts": (classes,), "class_scatter": (classes,), "scatter": (dim, dim)}
        for name, shape in shapes.items():
            found = tuple(state[name].shape) if name in state else shape
            if found != shape:
                raise UserError(f"not the state of class statistics: {name} must have shape {shape}, got {found}.")
        exact = bool(state.get("exact", torch.tensor(False)))
        stats = cls(classes, dim, device=device, full="scatter" in state, exact=exact)
        for name, tensor in stats._moments.tensors().items():
            tensor.copy_(state[name])
        stats.num_samples = int(state["num_samples"])
        stats._moments.resolution = float(state["resolution"])
        return stats
