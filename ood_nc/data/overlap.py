"""What the sets of an experiment share, found by content: the one computation behind every note on overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.marks import alike
from ood_nc.data.scan import same_content
from ood_nc.errors import UserError

Role = Literal["fit", "choose", "calibrate", "test"]
_STAGES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Overlap:
    """Images of one set that are also in another.

    Attributes:
        first: the set that is used earlier: fit before choose before calibrate before test.
        second: the set that is used later; of two with one role, the one that was given later.
        roles: of the first and of the second.
        ids: images of ``second`` whose content is also in ``first``, in its order.
        n: number of images of ``second``.

    Example:
        >>> print(Overlap("train", "test", ("fit", "test"), ids=("cat/1.png",), n=100))
        1 of 100 images of test are also in train (first: cat/1.png)
    """

    first: str
    second: str
    roles: tuple[Role, Role]
    ids: tuple[str, ...]
    n: int

    @property
    def leaks(self) -> bool:
        """Whether images that settled something are also tested on: such a number says nothing about fresh images."""
        return self.roles[1] == "test" and self.roles[0] != "test"

    def __str__(self) -> str:
        return f"{len(self.ids)} of {self.n} images of {self.second} are also in {self.first} (first: {self.ids[0]})"


def find_overlaps(sets: Mapping[str, ImageDataset], roles: Mapping[str, Role]) -> list[Overlap]:
    """Find every image that is, byte for byte, in two of the sets.

    Each set is read once, whatever their number. Names do not count: a copied file, a second name of a folder, a link
    and a member of an archive are found alike; two encodings of one picture are not.

    Args:
        sets: every set that fits, chooses, calibrates or tests, by name.
        roles: what each of them does: ``fit``, ``choose``, ``calibrate`` or ``test``.

    Returns:
        One entry for each two sets that share images, in the order of the stages, then as given.

    Raises:
        UserError: a set without a role, or another role than these.

    Example:
        >>> from ood_nc.data import find_overlaps, open_dataset
        >>> digits = open_dataset("bundled/digits-id::test")
        >>> shared = find_overlaps(
        ...     {"tuning": digits.subset(range(10)), "test": digits}, {"tuning": "choose", "test": "test"}
        ... )
        >>> [(found.first, found.second, len(found.ids), found.leaks) for found in shared]
        [('tuning', 'test', 10, True)]
    """
    for name in sets:
        if roles.get(name) not in _STAGES:
            raise UserError(f"Set {name!r} has role {roles.get(name)!r}: use {', '.join(_STAGES)}.")
    order = sorted(sets, key=lambda name: _STAGES.index(roles[name]))
    opened = [sets[name] for name in order]
    shared: dict[tuple[int, int], list[int]] = defaultdict(list)
    for group in alike(opened):
        # Of each set the first image of every content: a set of many copies costs no more than one without.
        seen: dict[int, list[int]] = {}
        for which, index in group:
            owners = [
                owner
                for owner, places in seen.items()
                if any(same_content(opened[owner], place, opened[which], index) for place in places)
            ]
            for owner in owners:
                if owner != which:
                    shared[owner, which].append(index)
            if which not in owners:
                seen.setdefault(which, []).append(index)
    found = []
    for (first, second), places in sorted(shared.items()):
        ids = tuple(opened[second].ids[index] for index in sorted(places))
        names = order[first], order[second]
        found.append(Overlap(*names, (roles[names[0]], roles[names[1]]), ids, len(opened[second])))
    return found
