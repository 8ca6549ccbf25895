"""A detection metric: the share of OOD samples that score below every ID sample."""

from __future__ import annotations

import numpy as np

from ood_nc.scores import ScoreMetric


def _below(counts):
    return np.where(counts.id_through == 0, counts.ood_through, 0).max(axis=-1) / counts.m


SHARE_BELOW = ScoreMetric("share of OOD samples below every ID sample", _below, "max")
