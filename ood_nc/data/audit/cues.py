"""Cues that tell sets apart without what the images show, and a detector that sees nothing else.

A benchmark whose OOD images are of another size, compression or format than its ID images can be solved by reading
those; a detector's AUROC says something about what the images show only as far as it exceeds that of the cues.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from ood_nc.data.pixels import Pixels, image_formats
from ood_nc.scores import auroc, bootstrap_intervals

CUES = {
    "size": ("log_pixels",),
    "aspect": ("log_aspect",),
    "format": ("format", "mode"),
    "compression": ("luma_table", "chroma_table", "subsampling", "progressive"),
    "grey": ("grey",),
    "borders": ("top", "bottom", "left", "right", "border_level"),
    "brightness": ("brightness",),
}
"""Each cue with its columns, in the order of `header_cues` and `pixel_cues`."""

TELLING = 0.6
"""A cue is reported where the lower end of its AUROC's interval is at least this."""

_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "I;16", "F")
_FLAT = 6
"""Grey levels within which a line of pixels is one colour: what JPEG of middling quality leaves of a flat border."""
_COLORLESS = 8
_FOLDS = 5
_FEWEST = 10
_REPLICATES = 500


def header_cues(stored: Pixels) -> list[float]:
    """Size, aspect, format and compression of an image as it is stored; 0 and -1 stand for what it has not."""
    if isinstance(stored, np.ndarray):
        height, width = stored.shape[:2]
        kind = [-1.0, 0.0 if stored.ndim == 2 else float(stored.shape[-1])]
        jpeg = [0.0, 0.0, -1.0, 0.0]
    else:
        width, height = stored.size
        known = stored.format in image_formats()
        kind = [
            float(image_formats().index(stored.format)) if known else -1.0,
            float(_MODES.index(stored.mode)) if stored.mode in _MODES else -1.0,
        ]
        jpeg = _jpeg_cues(stored)
    return [float(np.log2(max(1, width * height))), float(np.log2(max(1, width) / max(1, height))), *kind, *jpeg]


def pixel_cues(image: Image.Image) -> list[float]:
    """Grey, borders and brightness of an RGB image, at any resolution.

    An image is grey where 95 % of its pixels have three channels within 8 levels; a border is the share of the height
    or width that lines of one and the same colour take from an edge inwards.
    """
    colors = np.asarray(image, dtype=np.float32)
    grey = float(np.quantile(colors.max(axis=2) - colors.min(axis=2), 0.95) <= _COLORLESS)
    luma = np.asarray(image.convert("L"), dtype=np.float32)
    edges = [_border(lines) for lines in (luma, luma[::-1], luma.T, luma.T[::-1])]
    levels = [level for share, level in edges if share > 0]
    return [grey, *(share for share, _ in edges), float(np.mean(levels)) if levels else -1.0, float(luma.mean())]


def cue_detection(id_cues: NDArray[Any], ood_cues: NDArray[Any], seed: int = 0) -> dict[str, Any]:
    """How well the cues alone tell OOD from ID, by cross-validation.

    All cues together are read by gradient-boosted trees, each cue by one shallow tree; five folds, every image scored
    by a classifier that has not seen it. An AUROC below one half is what chance leaves of no cue.

    Args:
        id_cues: shape (n, columns), rows of `header_cues` and `pixel_cues`.
        ood_cues: shape (m, columns).
        seed: of folds and intervals.

    Returns:
        ``auroc``, ``low``, ``high`` (95 % bootstrap interval), ``n_id``, ``n``, ``by_cue`` (the same three of each
        cue) and ``told_by``, the cues whose interval begins at `TELLING` or above; null with a ``reason`` where there
        are fewer than ten images on a side.
    """
    found: dict[str, Any] = {"n_id": len(id_cues), "n": len(ood_cues)}
    if min(found.values()) < _FEWEST:
        empty: dict[str, Any] = {"auroc": None, "low": None, "high": None, "by_cue": {}, "told_by": []}
        return {**empty, **found, "reason": f"cues need at least {_FEWEST} images on both sides"}
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.tree import DecisionTreeClassifier

    columns = np.concatenate([id_cues, ood_cues])
    is_id = np.repeat([1, 0], [len(id_cues), len(ood_cues)])
    forest = HistGradientBoostingClassifier(max_iter=40, min_samples_leaf=_FEWEST, random_state=seed)
    tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=_FEWEST, random_state=seed)
    by_cue, start = {}, 0
    for name, parts in CUES.items():
        by_cue[name] = _measured(tree, columns[:, start : start + len(parts)], is_id, seed)
        start += len(parts)
    told_by = [name for name, value in by_cue.items() if value["low"] >= TELLING]
    return {**_measured(forest, columns, is_id, seed), **found, "by_cue": by_cue, "told_by": told_by}


def _measured(classifier: Any, columns: NDArray[Any], is_id: NDArray[Any], seed: int) -> dict[str, float]:
    if not np.ptp(columns, axis=0).any():
        return {"auroc": 0.5, "low": 0.5, "high": 0.5}
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(classifier, columns, is_id, cv=folds, method="predict_proba")[:, 1]
    sides = scores[is_id == 1], scores[is_id == 0]
    low, high = bootstrap_intervals(*sides, ["auroc"], replicates=_REPLICATES, seed=seed)["auroc"]
    return {"auroc": auroc(*sides), "low": low, "high": high}


def _jpeg_cues(stored: Image.Image) -> list[float]:
    tables = getattr(stored, "quantization", None)
    if not tables:
        return [0.0, 0.0, -1.0, 0.0]
    luma, *chroma = (float(np.log2(np.mean(table))) for table in tables.values())
    sampling = float(JpegImagePlugin.get_sampling(stored))
    return [luma, chroma[0] if chroma else 0.0, sampling, float(bool(stored.info.get("progressive")))]


def _border(lines: NDArray[Any]) -> tuple[float, float]:
    """The share of the lines, from the first on, that are of the first one's colour, and that colour."""
    level = float(lines[0].mean())
    flat = np.abs(lines - level).max(axis=1) <= _FLAT
    return float(flat.argmin() if not flat.all() else len(flat)) / len(lines), level
