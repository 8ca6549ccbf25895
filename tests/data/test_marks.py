from __future__ import annotations

from collections import defaultdict

import numpy as np

from ood_nc.data.marks import alike

from .test_overlap import array_set


def test_groups_are_those_of_a_dictionary_of_marks():
    generator = np.random.default_rng(1)
    sets = [array_set(str(number), generator.integers(0, 30, size)) for number, size in enumerate((25, 0, 40, 1))]
    groups = defaultdict(list)
    for which, dataset in enumerate(sets):
        for index in range(len(dataset)):
            groups[dataset.mark(index)].append((which, index))
    assert sorted(alike(sets)) == sorted(group for group in groups.values() if len(group) > 1)


def test_nothing_is_alike_in_nothing():
    assert list(alike([])) == list(alike([array_set("none", [])])) == list(alike([array_set("one", [3])])) == []
