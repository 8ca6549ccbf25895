from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from ood_nc.data import Inputs, as_dataset, prepare
from ood_nc.data.layout import NoImagesError
from ood_nc.errors import UserError


def made(n: int, *names: str, first: int = 0):
    """n grey images whose labels go round, with class names where some are given."""
    dataset = as_dataset(TensorDataset(torch.full((n, 1, 8, 8), 0.5), torch.arange(first, first + n) % 2))
    dataset.class_names = names or None
    return dataset


def prepared(**changes) -> Inputs:
    given = {"id": made(20), "id_train": made(40), "ood": {}, "transfer": {}, "groups": {}}
    return prepare(**{**given, **changes})


def test_nothing_is_held_out_unless_asked_for() -> None:
    data = prepared()
    assert (len(data.id_train), len(data.id_test), data.id_val) == (40, 20, None)
    assert set(data.all()) == {"id_train", "id_test"}
    given = prepared(id_val=made(6))
    assert (len(given.id_train), len(given.id_val)) == (40, 6), "what is given is read, and nothing is taken off train"


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_held_out_images_are_a_stratified_share_of_id_train(share: float) -> None:
    data = prepared(hold_out=(share, 3))
    assert len(data.id_val) == round(40 * share) and len(data.id_train) + len(data.id_val) == 40
    assert not set(data.id_val.ids) & set(data.id_train.ids)
    counts = np.bincount(data.id_val.targets)
    assert counts.max() - counts.min() <= 1
    assert len(prepared(hold_out=(share, 3), id_val=made(6)).id_val) == 6


def test_without_id_train_half_of_the_id_set_is_fitted_on() -> None:
    data = prepared(id_train=None)
    assert (len(data.id_train), len(data.id_test)) == (10, 10) and "half of the ID set" in data.notes[0]
    assert prepared(id=None).id_test is None
    with pytest.raises(UserError, match="no ID set"):
        prepared(id=None, id_train=None)


def test_classes_are_numbered_as_id_train_does() -> None:
    data = prepared(id_train=made(40, "b", "a"), id=made(20, "a", "b"), id_val=made(4, "a", "b"), hold_out=(0.1, 0))
    assert data.id_test.targets.tolist() == [1, 0] * 10 and data.id_val.targets.tolist() == [1, 0] * 2


def test_a_set_without_images_is_kept_as_none() -> None:
    def opened(source, name):
        if source == "empty":
            raise NoImagesError("No images in empty.")
        return as_dataset(source, name)

    transfer = {"whole": made(20), "half": (made(8), "empty"), "pair": (made(8, "x", "y"), made(4, "y", "x"))}
    data = prepared(ood={"none": "empty", "some": made(3)}, transfer=transfer, groups={"some": "near"}, opened=opened)
    assert data.ood["none"] is None and len(data.ood["some"]) == 3
    assert data.groups == {"none": "far", "some": "near"}
    assert [len(part) for part in data.transfer["whole"]] == [16, 4] and data.transfer["half"] is None
    assert data.transfer["pair"][1].targets.tolist() == [1, 0, 1, 0]
    assert {"ood/some", "transfer/pair/train"} < set(data.all()) and "ood/none" not in data.all()


def test_the_set_that_choices_are_made_on_is_in_no_result() -> None:
    data = prepared(ood={"a": made(3), "b": made(5)}, groups={"a": "near"}, choose_on="a")
    assert len(data.validation_ood) == 3 and list(data.ood) == ["b"] and data.groups == {"b": "far"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": {"textures": "near"}}, "no such OOD set"),
        ({"ood": {"a": made(3)}, "groups": {"a": "close"}}, "use near, far or covariate"),
        ({"ood": {"a": made(3)}, "choose_on": "b"}, "no such OOD set"),
        ({"ood": {"a": None}, "choose_on": "a"}, "holds no images"),
        ({"id": made(20, "a", "c"), "id_train": made(40, "a", "b")}, "c"),
        ({"ood": "/data/textures"}, "ood is a str: give a dictionary of sets by name"),
        ({"transfer": ["/data/pets"]}, "transfer is a list: give a dictionary of sets by name"),
        ({"ood": {"svhn (disjoint)": made(3)}}, "A set cannot be called 'svhn .disjoint.': the results call one"),
        ({"ood": {"mean": made(3)}}, "A set cannot be called 'mean': the results call one of their own so"),
        ({"transfer": {"pets": ("bundled/digits-transfer",)}}, "Transfer set pets is given in 1 parts: give one set"),
    ],
)
def test_mistakes_are_one_line(changes, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepared(**changes)
    assert "\n" not in str(caught.value)


def test_a_pair_of_sources_may_be_a_list_as_json_has_it() -> None:
    pair = ["bundled/digits-transfer::train", "bundled/digits-transfer::test"]
    found = prepared(transfer={"digits": pair}).transfer["digits"]
    assert [len(part) for part in found] == [len(as_dataset(part)) for part in pair]
