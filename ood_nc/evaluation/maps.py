"""Maps: the features of a tap on their first two principal components, for looking at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ood_nc.features import FeatureBank

POINTS = 300
"""The most points of a set in a map."""
_ROWS_AT_ONCE = 1 << 16


def feature_maps(tap: str, banks: Mapping[str, FeatureBank]) -> list[dict[str, Any]]:
    """Place held-out ID, alone and together with the OOD sets, on the principal components of what is placed.

    Of each set `POINTS` rows are taken, evenly spaced in its order; rows that are not finite are left out.

    Args:
        tap: its name.
        banks: by set key: ``id_test`` and ``ood/NAME``; others are passed over.

    Returns:
        A dictionary a view (``id``: ID alone, ``all``) and set: ``tap, view, dataset, x, y, labels, explained``, the
        last the shares of the variance that the two components hold. None where features have no spread.
    """
    samples = {key: bank for key, bank in banks.items() if key == "id_test" or key.startswith("ood/")}
    rows = {key: _sample(bank.taps[tap]) for key, bank in samples.items()}
    maps: list[dict[str, Any]] = []
    for view, keys in (("id", ["id_test"]), ("all", sorted(rows, key=lambda key: key != "id_test"))):
        features = {key: samples[key].taps[tap][rows[key]].double().numpy(force=True) for key in keys}
        together = np.concatenate(list(features.values()))
        if min(together.shape) < 2 or not np.ptp(together, axis=0).any():
            continue
        pca = PCA(2, svd_solver="full").fit(together)
        for key, values in features.items():
            places = pca.transform(values)
            maps.append(
                {
                    "tap": tap,
                    "view": view,
                    "dataset": key.removeprefix("ood/"),
                    "x": [float(f"{value:.4g}") for value in places[:, 0]],
                    "y": [float(f"{value:.4g}") for value in places[:, 1]],
                    "labels": samples[key].labels.numpy(force=True)[rows[key]].astype(str).tolist(),
                    "explained": pca.explained_variance_ratio_.tolist(),
                }
            )
    return maps


def _sample(features: torch.Tensor) -> NDArray[np.int64]:
    """Positions of finite rows, evenly spaced where there are more than `POINTS`."""
    finite = torch.cat([block.isfinite().all(dim=1) for block in features.split(_ROWS_AT_ONCE)]).nonzero()[:, 0]
    positions: NDArray[np.int64] = finite.numpy(force=True)
    return positions[np.linspace(0, len(finite) - 1, min(POINTS, len(finite))).astype(int)]
