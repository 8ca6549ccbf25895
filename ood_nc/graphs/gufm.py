"""The graph-based unconstrained features model (gUFM) of Kothapalli, Tirer and Bruna (NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.nn.functional import one_hot

Array = NDArray[np.float64]


class GufmState(NamedTuple):
    """H (N, d), W1 and W2 (C, d), float64; W1 is zero throughout for the model without it."""

    features: Tensor
    own: Tensor
    neighbours: Tensor


class Gufm:
    """Loss and gradient on one graph: (1/2N) |H W1' + A^ H W2' - Y|^2 + (l/2) (|W1|^2 + |W2|^2 + |H|^2).

    Args:
        edge_index: (2, E).
        labels: classes (N,).
        penalty: l.
        own_weight: whether there is W1.
    """

    def __init__(self, edge_index: Tensor, labels: Tensor, *, penalty: float = 0.005, own_weight: bool = True) -> None:
        self.averages = _averaging(edge_index, len(labels))
        self._back = self.averages.t().coalesce()
        self.targets = one_hot(labels).double()
        self.penalty, self.own_weight = penalty, own_weight

    def start(self, dim: int, generator: torch.Generator) -> GufmState:
        """N(0, 1) features and weights of that width."""
        nodes, classes = self.targets.shape
        draw = [torch.randn(n, dim, dtype=torch.float64, generator=generator) for n in (nodes, classes, classes)]
        return GufmState(draw[0], draw[1] * self.own_weight, draw[2])

    def _residual(self, state: GufmState, smooth: Tensor) -> Tensor:
        return state.features @ state.own.T + smooth @ state.neighbours.T - self.targets

    def loss(self, state: GufmState) -> float:
        """The objective."""
        residual = self._residual(state, self.averages @ state.features)
        size = sum(part.square().sum() for part in state)
        return float(residual.square().sum() / (2 * len(residual)) + self.penalty / 2 * size)

    def gradient(self, state: GufmState) -> GufmState:
        """Its gradient, in the same three parts."""
        smooth = self.averages @ state.features
        residual = self._residual(state, smooth) / len(smooth)
        features = residual @ state.own + self._back @ (residual @ state.neighbours)
        own = residual.T @ state.features + self.penalty * state.own
        return GufmState(
            features + self.penalty * state.features,
            own * self.own_weight,
            residual.T @ smooth + self.penalty * state.neighbours,
        )


def _averaging(edge_index: Tensor, nodes: int) -> Tensor:
    """A^ (N, N), sparse: its row of a node averages over the neighbours."""
    source, target = edge_index
    shares = 1 / torch.bincount(target, minlength=nodes)[target].double()
    return torch.sparse_coo_tensor(
        torch.stack([target, source]), shares, (nodes, nodes), check_invariants=False
    ).coalesce()


def fit_gufm(
    model: Gufm,
    start: GufmState,
    times: Sequence[float],
    *,
    method: Literal["descent", "flow"] = "descent",
    lr: float = 0.1,
) -> list[GufmState]:
    """Minimise from ``start``.

    Args:
        model: the loss on one graph.
        start: features and weights at time 0.
        times: ascending; a step of descent lasts ``lr``, so that both methods share the axis.
        method: gradient descent, or the gradient flow d/dt = -gradient by an adaptive Runge-Kutta method of order 3(2).
        lr: learning rate of the descent; the paper's 50,000 epochs at 0.1 end at time 5000.

    Returns:
        The states at these times.
    """
    if method == "flow":
        return _flow(model, start, times)
    found, state, step = [], start, 0
    for time in times:
        while step < round(time / lr):
            gradient = model.gradient(state)
            state = GufmState(*(part - lr * slope for part, slope in zip(state, gradient, strict=True)))
            step += 1
        found.append(state)
    return found


def _flow(model: Gufm, start: GufmState, times: Sequence[float]) -> list[GufmState]:
    shapes = [part.shape for part in start]
    sizes = [part.numel() for part in start]

    def unpack(values: Array) -> GufmState:
        parts = torch.from_numpy(values).split(sizes)
        return GufmState(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))

    def slope(_: float, values: Array) -> Array:
        return -torch.cat([part.flatten() for part in model.gradient(unpack(values))]).numpy()

    first = torch.cat([part.flatten() for part in start]).numpy()
    solution = solve_ivp(slope, (0, times[-1]), first, method="RK23", t_eval=times, rtol=1e-6, atol=1e-9)
    return [unpack(np.ascontiguousarray(column)) for column in solution.y.T]
