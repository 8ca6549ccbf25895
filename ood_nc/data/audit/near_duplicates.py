"""The same picture in two sets, stored differently: encoded again, resized, brighter, mirrored.

Two images are compared by the correlation of their thumbnails (16 x 16, grey), whose frequencies are weighted so that
detail counts; brightness and contrast drop out. A pair is reported where the distance, one less the correlation, is

- at most 0.1: another encoding, size or brightness of a photograph stays below, two photographs above 0.15;
- at most a sixth of the distance at which images of that set usually have ten others: drawings of a few strokes
  resemble each other more than that, and no thumbnail tells a copy from a resemblance;
- at most a quarter of the image's own distance to its tenth nearest: a digit 1 resembles a thousand others as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ood_nc.data.audit.looks import Looks, evenly, mirrored

FARTHEST = 0.1
_OF_TYPICAL, _OF_TENTH = 6.0, 4.0
_NEIGHBORS = 10
_SAMPLE = 256
_QUERIES, _BANK = 512, 16384


@dataclass(frozen=True)
class NearDuplicate:
    """An image of one set that shows the same picture as one of another.

    Attributes:
        second: its position in its set.
        first: position of the other in the other set.
        similarity: correlation of the two.
        mirrored: whether left and right are exchanged.
    """

    second: int
    first: int
    similarity: float
    mirrored: bool


def find_near_duplicates(first: Looks, second: Looks) -> list[NearDuplicate]:
    """Find the images of ``second`` that nearly equal one of ``first``, exact copies among them.

    Every image is compared with every other, in blocks: memory does not depend on the sizes of the sets. Images of
    less contrast than four grey levels are left out (`Looks.distinct`).

    Args:
        first: what is searched.
        second: whose images are looked for.
    """
    bank, queries = first.descriptors[first.distinct], second.descriptors[second.distinct]
    if not len(bank) or not len(queries):
        return []
    limit = min(FARTHEST, _typical(bank) / _OF_TYPICAL)
    similarities, nearest = _search(bank, queries, min(_NEIGHBORS + 1, len(bank)))
    others = 1 - similarities[:, -1] if len(bank) > 1 else np.ones(len(queries))
    distances = 1 - similarities[:, 0]
    hits = np.flatnonzero((distances <= limit) & (distances <= others / _OF_TENTH))
    alike = [bank[nearest[hits]].astype(np.float32) * side[hits] for side in (queries, mirrored(queries))]
    turned = alike[1].sum(axis=1) > alike[0].sum(axis=1)
    of_first, of_second = first.places[first.distinct], second.places[second.distinct]
    return [
        NearDuplicate(int(of_second[hit]), int(of_first[nearest[hit]]), float(similarities[hit, 0]), bool(flip))
        for hit, flip in zip(hits, turned, strict=True)
    ]


def _typical(bank: NDArray[Any]) -> float:
    """The median distance of images of a set to the tenth nearest other one."""
    if len(bank) == 1:
        return 1.0
    similarities, _ = _search(bank, bank[evenly(range(len(bank)), _SAMPLE)], min(_NEIGHBORS + 1, len(bank)))
    return float(np.median(1 - similarities[:, -1]))


def _search(bank: NDArray[Any], queries: NDArray[Any], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest similarities of each query, as it is or mirrored, in falling order, and the place of the first."""
    best, places = [], []
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES].astype(np.float32)
        plain, turned = torch.from_numpy(block), torch.from_numpy(mirrored(block))
        values, indices = torch.full((len(block), 0), 0.0), torch.full((len(block), 0), 0)
        for offset in range(0, len(bank), _BANK):
            part = torch.from_numpy(bank[offset : offset + _BANK].astype(np.float32)).T
            found = torch.maximum(plain @ part, turned @ part).topk(min(k, part.shape[1]), dim=1)
            joined = torch.cat([values, found.values], dim=1)
            values, kept = joined.topk(min(k, joined.shape[1]), dim=1)
            indices = torch.cat([indices, found.indices + offset], dim=1).gather(1, kept)
        best.append(values.numpy())
        places.append(indices[:, 0].numpy())
    return np.concatenate(best), np.concatenate(places)
