from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from ood_nc.data import find_overlaps, open_dataset
from ood_nc.data.bundled import BUNDLED
from ood_nc.errors import UserError


@pytest.fixture(scope="module")
def sets():
    return {name: open_dataset(f"bundled/{name}") for name in BUNDLED}


def pixels(dataset):
    return np.stack([np.asarray(dataset.load(index))[..., 0].ravel() for index in range(len(dataset))])


def test_all_are_grey_and_of_one_size(sets):
    for dataset in sets.values():
        image = np.asarray(dataset.load(0))
        assert image.shape == (8, 8, 3)
        assert (image == image[..., :1]).all()


def test_every_digit_is_in_exactly_one_set(sets):
    digits = [dataset for name, dataset in sets.items() if name.startswith("digits")]
    together = np.concatenate([pixels(dataset) for dataset in digits])
    labels = np.concatenate([np.array(dataset.class_names, int)[dataset.targets] for dataset in digits])
    source = load_digits()
    expected = np.round(source.data * 255 / 16).astype(np.uint8)
    order, other = np.lexsort(together.T), np.lexsort(expected.T)
    assert np.array_equal(together[order], expected[other])
    assert np.array_equal(labels[order], source.target[other])


def test_no_image_is_in_two_sets_and_no_class_serves_two_questions(sets):
    assert find_overlaps(sets, dict.fromkeys(sets, "test")) == []
    names = [set(sets[name].class_names) for name in ("digits-id::train", "digits-near", "digits-transfer::train")]
    assert all(not a & b for a, b in itertools.combinations(names, 2))
    assert sets["digits-id::train"].class_names == sets["digits-id::test"].class_names


def test_test_digits_come_later_in_the_file(sets):
    source = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    position = {row.tobytes(): index for index, row in enumerate(source)}
    train, test = sets["digits-id::train"], sets["digits-id::test"]
    for label in range(5):
        last = max(position[row.tobytes()] for row in pixels(train)[train.targets == label])
        first = min(position[row.tobytes()] for row in pixels(test)[test.targets == label])
        assert last < first


def test_contrast_gives_no_texture_away(sets):
    textures = pixels(sets["textures"])
    assert (textures.min(axis=1) == 0).all() and (textures.max(axis=1) == 255).all()


def test_transfer_tasks_can_be_learned_and_are_not_trivial(sets):
    accuracy = {}
    for name, model in (
        ("digits-transfer", LogisticRegression(max_iter=3000)),
        ("textures-transfer", RandomForestClassifier(100, random_state=0)),
    ):
        train, test = sets[f"{name}::train"], sets[f"{name}::test"]
        accuracy[name] = model.fit(pixels(train) / 255, train.targets).score(pixels(test) / 255, test.targets)
    assert 0.9 < accuracy["digits-transfer"] < 0.985
    assert 0.3 < accuracy["textures-transfer"] < 0.7
    assert set(sets["textures-transfer::test"].targets) == set(range(8))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bundled/digits-id", "Choose bundled/digits-id::train or bundled/digits-id::test"),
        ("bundled/digits-ner", "Did you mean 'digits-near'"),
        ("bundled/nothing", "There are digits-id::train"),
        ("bundled/textures::train", "No bundled set"),
    ],
)
def test_unknown_sets(source, message):
    with pytest.raises(UserError, match=message):
        open_dataset(source)
