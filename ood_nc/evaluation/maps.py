"""Maps: the features of a tap in a plane, on their principal components or by UMAP, for looking at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ood_nc.errors import MissingPackageError, UserError, nearest
from ood_nc.features import FeatureBank

MAPS = ("pca", "umap")

POINTS = 300
"""The most points of a set in a map."""
_ROWS_AT_ONCE = 1 << 16
_NEIGHBOURS = 15


def check_map(method: str) -> None:
    """Refuse a map that cannot be made, before anything is computed.

    Raises:
        UserError: there is no such method.
        MissingPackageError: the extra is not installed.
    """
    if method not in MAPS:
        raise UserError(f"Unknown feature_map {method!r}: use {' or '.join(MAPS)}.{nearest(method, MAPS)}")
    if method == "umap":
        _umap()


def feature_maps(
    tap: str, banks: Mapping[str, FeatureBank], method: str = "pca", seed: int = 0
) -> list[dict[str, Any]]:
    """Place held-out ID, alone and together with the OOD sets, in a plane that is made for what is placed.

    Of each set `POINTS` rows are taken, evenly spaced in its order; rows that are not finite are left out.

    Args:
        tap: its name.
        banks: by set key: ``id_test`` and ``ood/NAME``; others are passed over.
        method: ``pca``, the first two principal components, or ``umap`` (McInnes et al., arXiv 1802.03426), which keeps
            who is near whom and neither distances nor densities.
        seed: of UMAP; the same features and seed give the same map.

    Returns:
        A dictionary a view (``id``: ID alone, ``all``) and set: ``tap, view, dataset, x, y, labels, explained``, the
        last the shares of the variance that two principal components hold, empty for UMAP. None where features have no
        spread.

    Raises:
        MissingPackageError: UMAP is not installed.
    """
    samples = {key: bank for key, bank in banks.items() if key == "id_test" or key.startswith("ood/")}
    rows = {key: _sample(bank.taps[tap]) for key, bank in samples.items()}
    maps: list[dict[str, Any]] = []
    for view, keys in (("id", ["id_test"]), ("all", sorted(rows, key=lambda key: key != "id_test"))):
        features = {key: samples[key].taps[tap][rows[key]].double().numpy(force=True) for key in keys}
        together = np.concatenate(list(features.values()))
        if min(together.shape) < 2 or not np.ptp(together, axis=0).any():
            continue
        placed, explained = _placed(together, method, seed)
        ends = np.cumsum([len(values) for values in features.values()])[:-1]
        for key, places in zip(keys, np.split(placed, ends), strict=True):
            maps.append(
                {
                    "tap": tap,
                    "view": view,
                    "dataset": key.removeprefix("ood/"),
                    "x": [float(f"{value:.4g}") for value in places[:, 0]],
                    "y": [float(f"{value:.4g}") for value in places[:, 1]],
                    "labels": samples[key].labels.numpy(force=True)[rows[key]].astype(str).tolist(),
                    "explained": explained,
                }
            )
    return maps


def _placed(rows: NDArray[np.float64], method: str, seed: int) -> tuple[NDArray[np.float64], list[float]]:
    if method == "umap":
        # One thread, as several would not repeat themselves; from principal components, which small sets have too.
        options = {"n_neighbors": min(_NEIGHBOURS, len(rows) - 1), "init": "pca", "random_state": seed, "n_jobs": 1}
        return _umap().UMAP(**options).fit_transform(rows), []
    # Two components alone, to the last digit; of two rows or columns they are all there are.
    pca = PCA(2, svd_solver="arpack" if min(rows.shape) > 2 else "full", random_state=seed).fit(rows)
    return pca.transform(rows), pca.explained_variance_ratio_.tolist()


def _umap() -> Any:
    try:
        import umap
    except ImportError:
        raise MissingPackageError("A UMAP of the features needs umap-learn: pip install 'ood_nc[umap]'.") from None
    return umap


def _sample(features: torch.Tensor) -> NDArray[np.int64]:
    """Positions of finite rows, evenly spaced where there are more than `POINTS`."""
    finite = torch.cat([block.isfinite().all(dim=1) for block in features.split(_ROWS_AT_ONCE)]).nonzero()[:, 0]
    positions: NDArray[np.int64] = finite.numpy(force=True)
    return positions[np.linspace(0, len(finite) - 1, min(POINTS, len(finite))).astype(int)]
