"""Images that may be copies of each other, found among millions at a few bytes each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ood_nc.data.dataset import ImageDataset

_UNREADABLE = np.iinfo(np.uint64).max


def alike(datasets: Sequence[ImageDataset]) -> Iterator[list[tuple[int, int]]]:
    """Groups of two images or more whose marks (`ImageDataset.mark`) are equal; unreadable ones are in none.

    Takes 32 bytes of memory an image, however many there are, beside what the groups hold.

    Args:
        datasets: each is read once.

    Yields:
        Which set, and the position in it, of every image of a group, in order.
    """
    starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
    marks = np.empty((3, starts[-1]), np.uint64)  # size, and the halves of the hash
    for dataset, start in zip(datasets, starts, strict=False):
        for index in range(len(dataset)):
            size, end = dataset.mark(index)
            marks[0, start + index] = _UNREADABLE if size < 0 else size
            marks[1:, start + index] = (0, 0) if size < 0 else np.frombuffer(end, np.uint64)
    order = np.lexsort(marks)
    equal = np.ones(max(len(order) - 1, 0), bool)
    for column in marks:
        equal &= column[order[1:]] == column[order[:-1]]
    equal &= marks[0, order[1:]] != _UNREADABLE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2):
        places = order[first : last + 1]  # the sort is stable, so they are in order
        sets = np.searchsorted(starts, places, side="right") - 1
        yield list(zip(sets.tolist(), (places - starts[sets]).tolist(), strict=True))
