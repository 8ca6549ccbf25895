"""Sums over samples that keep their digits: class sums, centring, lengths, and a symmetric product, block by block."""

from __future__ import annotations

import math
import threading
from itertools import repeat

import torch

# Big enough for threads to share an operation, small enough to stay in the cache from one operation to the next.
_PIECE_BYTES = 1 << 20
_KEPT_BYTES = 1 << 22
_kept = threading.local()


def pieces(block: torch.Tensor, dtype: torch.dtype = torch.float64) -> list[slice]:
    """Cut the rows of ``block`` (n, ...) into pieces that stay in the cache as ``dtype``."""
    rows, dim = len(block), math.prod(block.shape[1:])
    step = max(1, _PIECE_BYTES // max(dim * dtype.itemsize, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _scratch(name: str, rows: int, dim: int, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Memory for (rows, dim) numbers, the same one at each call in a thread, on the device of ``like``.

    To take it from the system for every block, and to give it back, costs more than the sums in it.
    """
    size, key = rows * dim * dtype.itemsize, (name, like.device)
    if size > _KEPT_BYTES:  # it would be held for little
        return torch.empty(rows, dim, dtype=dtype, device=like.device)
    kept: dict[tuple[str, torch.device], torch.Tensor] = _kept.__dict__.setdefault("tensors", {})
    if key not in kept or len(kept[key]) < size:
        with torch.inference_mode(False):  # else it could not be written to outside of that mode
            kept[key] = torch.empty(size, dtype=torch.uint8, device=like.device)
    return kept[key][:size].view(dtype).view(rows, dim)


def length(values: torch.Tensor) -> float:
    """The Euclidean length of all numbers of a float tensor; infinite where its square is beyond the dtype."""
    if values.is_contiguous() and values.numel() < 1 << 31:
        flat = values.view(-1)
        return math.sqrt(torch.dot(flat, flat))  # half the time of a norm
    return float(torch.linalg.vector_norm(values))


def is_finite(values: torch.Tensor) -> bool:
    """Whether no number (of a tensor of any shape) is NaN or infinite."""
    # The length of all of them shows it in half the time, unless it is beyond the dtype.
    if values.dtype.itemsize >= 4 and math.isfinite(length(values)):
        return True
    return math.isfinite(largest_magnitude(torch.atleast_1d(values)))


def largest_magnitude(values: torch.Tensor) -> float:
    """The largest absolute value (of a tensor with rows), 0 where there is none; NaN or infinity where it holds one."""
    if not values.numel():
        return 0.0
    ends = [torch.stack(torch.aminmax(values[rows])) for rows in pieces(values, values.dtype)]
    return float(torch.stack(ends).abs().max())


def class_sums(block: torch.Tensor, index: torch.Tensor, weights: torch.Tensor | None, classes: int) -> torch.Tensor:
    """Return the (weighted) float64 sums (classes, d) of the rows of ``block`` that share an ``index``."""
    sums = torch.zeros(classes, block.shape[1], dtype=torch.float64, device=block.device)
    step = pieces(block)[0].stop
    wide = _scratch("sums", step, block.shape[1], block, torch.float64)
    scales = repeat(None) if weights is None else weights[:, None].split(step)
    for part, own, scale in zip(block.split(step), index.split(step), scales, strict=False):
        if scale is not None or part.dtype != torch.float64:
            part = wide[: len(part)].copy_(part)
        sums.index_add_(0, own, part if scale is None else part.mul_(scale))
    return sums


def split(centers: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 numbers of any shape as two of ``dtype`` whose sum they are; the memory of ``centers`` is used up.

    Example:
        >>> high, low = split(torch.tensor([1 + 2.0**-30], dtype=torch.float64), torch.float32)
        >>> high.item(), low.item() == 2**-30
        (1.0, True)
    """
    high = centers.to(dtype, copy=True)
    return high, centers.sub_(high).to(dtype)


def center_rows(
    source: torch.Tensor, index: torch.Tensor, centers: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor
) -> torch.Tensor:
    """Write ``source - centers[index]`` to ``out``, which may be ``source``; return the squared lengths of the rows.

    Of `split` centers in float32 the second part is subtracted where it is not far below the rounding of the
    deviations. Each step rounds relative to the deviation, not to the feature, so an offset of the features costs no
    digits.
    """
    high, low = centers
    squares = _subtract(source, high, index, out)
    if out.dtype != torch.float64:
        longest = float(torch.linalg.vector_norm(low, dim=1, dtype=torch.float64).max())
        if longest > 1e-7 * math.sqrt(float(squares.mean())):
            squares = _subtract(out, low, index, out)
    return squares


def _subtract(source: torch.Tensor, centers: torch.Tensor, index: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    step = pieces(out, out.dtype)[0].stop
    scratch = _scratch("centers", step, out.shape[1], out, out.dtype)
    apart = source.data_ptr() != out.data_ptr()
    lengths = []
    for rows, own, part in zip(source.split(step), index.split(step), out.split(step), strict=True):
        center = torch.index_select(centers, 0, own, out=part if apart else scratch[: len(part)])
        lengths.append(torch.linalg.vector_norm(torch.sub(rows, center, out=part), dim=1))
    squares = torch.cat(lengths).double().square_()
    if out.dtype != torch.float64:
        # The squares of very short or long rows leave the range of float32.
        outside = ~((squares > 1e-28) & (squares < torch.inf))
        if bool(outside.any()):
            squares[outside] = torch.linalg.vector_norm(out[outside], dim=1, dtype=torch.float64).square()
    return squares


def add_product(scatter: torch.Tensor, block: torch.Tensor, factor: float = 1.0) -> None:
    """Add ``factor * block' block`` to the upper triangle of ``scatter`` (d, d), float64, in strips of rows.

    The strips leave out the blocks below the diagonal: little more than half of the work of the full product (torch has
    no symmetric one). What lies below the diagonal inside a strip is added too and never read.
    """
    dim = block.shape[1]
    width = min(dim, max(128, dim // 8))
    work = None if block.dtype == torch.float64 else _scratch("strip", width, dim, block, block.dtype).view(-1)
    for start in range(0, dim, width):
        left, right = block[:, start : start + width].T, block[:, start:]
        strip = scatter[start : start + width, start:]
        if work is None:
            strip.addmm_(left, right, alpha=factor)
        else:
            strip.add_(torch.mm(left, right, out=work[: strip.numel()].view(strip.shape)), alpha=factor)


def add_scatter(scatter: torch.Tensor, block: torch.Tensor, squares: torch.Tensor) -> None:
    """`add_product` of centred rows of which float32 may not hold the squares (n,); ``block`` is used up."""
    factor = 1.0
    if block.dtype == torch.float32:
        # A power of two changes no digit.
        exponent = int(torch.frexp(squares.max().sqrt())[1])
        if abs(exponent) > 16:
            block = block.mul_(2.0**-exponent)
            factor = 4.0**exponent
    add_product(scatter, block, factor)


def fill_lower(matrix: torch.Tensor) -> torch.Tensor:
    """Mirror the upper triangle below the diagonal, in place."""
    dim = len(matrix)
    width = 64  # small enough for its transpose to stay in the cache
    for start in range(0, dim, width):
        stop = min(start + width, dim)
        corner = matrix[start:stop, start:stop].triu()
        matrix[start:stop, start:stop] = corner + corner.triu(1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    return matrix
