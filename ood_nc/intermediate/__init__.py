"""Intermediate neural collapse: every linear and convolutional layer's input, over training.

Rangamani, Lindegaard, Galanti, Poggio, "Feature learning in deep classifiers through intermediate neural collapse"
(ICML 2023).
"""

from ood_nc.intermediate.layers import Layer, watch_inputs, weighted_layers
from ood_nc.intermediate.measurement import LayerReport, effective_depth, measure_layers, sample_indices
from ood_nc.intermediate.memory import low_rank_accuracy

__all__ = [
    "Layer",
    "LayerReport",
    "effective_depth",
    "low_rank_accuracy",
    "measure_layers",
    "sample_indices",
    "watch_inputs",
    "weighted_layers",
]
