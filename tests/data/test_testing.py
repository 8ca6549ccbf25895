"""The conformance check passes ours, and each way of breaking the protocol fails it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ood_nc.conformance import CheckError
from ood_nc.data import SOURCES, ImageDataset, check_source, list_datasets, open_dataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def make(store=None, **changes):
    settings = {"ids": [f"a/{index}" for index in range(6)], "targets": np.arange(6) % 2, "class_names": ("a", "b")}
    return ImageDataset(store or ArrayStore(PIXELS), name="x", **{**settings, **changes})


@pytest.fixture
def adds(monkeypatch):
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))

    def add(build, documentation="A trial."):
        def opener(name, split, root):
            if name != "set":
                raise UserError(f"no {name}")
            return build()

        opener.__doc__ = documentation
        SOURCES.add("trial", opener)

    return add


def test_ours():
    check_source("bundled/digits-near")


def test_one_of_another_package(adds):
    adds(make)
    check_source("trial/set")
    assert np.array_equal(np.asarray(open_dataset("trial/set")[3][0]), PIXELS[3])
    assert len(open_dataset("trial/set::@test")) < 6
    assert "trial/NAME::SPLIT" in list_datasets()


class Flickering(ArrayStore):
    def image(self, index):
        return Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))


class Unsendable(ArrayStore):
    def __getstate__(self):
        raise TypeError("open handle")


class Empty(ArrayStore):
    def read(self, index):
        return b""


@pytest.mark.parametrize(
    ("build", "seen"),
    [
        (lambda: make(ids=["a"] * 6), "gives 6 samples the id 'a'"),
        (lambda: make(ids=[f"/x/{index}" for index in range(6)]), "for an id"),
        (lambda: make(ids=[f"{RNG.random()}" for _ in range(6)]), "other ids, or another order"),
        (lambda: make(targets=np.full(6, 2)), "has the label 2 and 2 class names"),
        (lambda: make(class_names=("a", "a")), "two classes of one name"),
        (lambda: make(Flickering(PIXELS)), "other pixels the second time"),
        (lambda: make(Unsendable(PIXELS)), "cannot be sent to loader workers .TypeError: open handle"),
        (lambda: make(Empty(PIXELS)), "has no content"),
        (lambda: make(ArrayStore(RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8))), "another fingerprint"),
        (lambda: make().subset([]), "holds no image"),
    ],
)
def test_broken(adds, build, seen):
    adds(build)
    with pytest.raises(CheckError, match=f"^Source 'trial/set' .*{seen}"):
        check_source("trial/set")


def test_without_documentation_and_without_errors(adds):
    adds(make, documentation=None)
    with pytest.raises(CheckError, match="has no docstring"):
        check_source("trial/set")


@pytest.mark.parametrize(("error", "seen"), [(KeyError, "raises KeyError"), (None, "takes a name that is not there")])
def test_errors(monkeypatch, error, seen):
    def opener(name, split, root):
        """A trial."""
        if error is not None and name != "set":
            raise error(name)
        return make()

    monkeypatch.setattr(SOURCES, "_entries", {"trial": opener})
    with pytest.raises(CheckError, match=seen):
        check_source("trial/set")
