"""A detector: minus the distance to the nearest ID training feature."""

from __future__ import annotations

import torch

from ood_nc.detection import DetectorInfo, FeatureDetector


class NearestDistance(FeatureDetector):
    """Minus the Euclidean distance to the nearest ID train feature."""

    name = "nearest_distance"
    info = DetectorInfo("An example", "this repository", "https://example.org", "features", "real", "O(N d)")
    requires = frozenset({"features"})

    def _fit(self, stats):
        self.bank_ = stats.features.double()

    def _score(self, queries):
        exact = "donot_use_mm_for_euclid_dist"
        return -torch.cdist(queries.features.double(), self.bank_, compute_mode=exact).amin(dim=1)
