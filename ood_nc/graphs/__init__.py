"""Neural collapse and OOD detection on graphs (Kothapalli, Tirer and Bruna, NeurIPS 2023), on PyTorch Geometric."""

from ood_nc.errors import MissingPackageError

try:
    import torch_geometric  # noqa: F401
except ModuleNotFoundError:
    raise MissingPackageError("Graphs need PyTorch Geometric: pip install 'ood_nc[graphs]'.") from None

from ood_nc.graphs.block_model import SETTINGS, BlockModel
from ood_nc.graphs.condition_c import condition_c_deviation, condition_c_graph, probability_bound, probability_exact
from ood_nc.graphs.datasets import load_graph
from ood_nc.graphs.gufm import fit_gufm
from ood_nc.graphs.measurement import collapse_by_layer, frame_distance
from ood_nc.graphs.network import GraphNetwork, mean_aggregate
from ood_nc.graphs.objective import overlap, permutation_mse
from ood_nc.graphs.propagation import propagate
from ood_nc.graphs.spectral import projected_power_iterations, spectral_labels, spectrum
from ood_nc.graphs.traces import TraceBounds, trace_bounds

__all__ = [
    "SETTINGS",
    "BlockModel",
    "GraphNetwork",
    "TraceBounds",
    "collapse_by_layer",
    "condition_c_deviation",
    "condition_c_graph",
    "fit_gufm",
    "frame_distance",
    "load_graph",
    "mean_aggregate",
    "overlap",
    "permutation_mse",
    "probability_bound",
    "probability_exact",
    "projected_power_iterations",
    "propagate",
    "spectral_labels",
    "spectrum",
    "trace_bounds",
]
