"""Problems with post-ReLU features, for detectors that need features without negative entries."""

from __future__ import annotations

from tests.detection.agreement import make

RELU_PROBLEMS = (
    make("relu", relu=True),
    make("relu collapsed", spread=1e-3, relu=True),
    make("relu offset", offset=12.0, relu=True),
    make("relu wide", classes=4, dim=48, n=30, relu=True),
    make("relu two classes", classes=2, dim=6, n=101, relu=True),
)
