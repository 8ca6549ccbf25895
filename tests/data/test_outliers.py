"""Outliers to learn from are in no set that is tested."""

from __future__ import annotations

import pytest

from ood_nc.config import DataConfig, OodSet
from ood_nc.data import check_outliers, load_data, load_outliers
from ood_nc.errors import UserError

from .conftest import encoded, put


def configured(outliers: str | None) -> DataConfig:
    return DataConfig(outliers=outliers, limit=10, ood={"near": {"source": "bundled/digits-near"}})


def test_they_are_opened_as_they_are() -> None:
    config = configured("bundled/textures")
    found = load_outliers(config, load_data(config))
    assert found is not None and len(found) > 10
    assert load_outliers(configured(None), load_data(config)) is None


@pytest.mark.parametrize(("source", "name"), [("bundled/digits-near", "near"), ("bundled/digits-id::test", "id_test")])
def test_what_is_tested_too_is_one_line(source: str, name: str) -> None:
    config = configured(source)
    with pytest.raises(UserError, match=rf"data\.outliers shares \d+ images with {name} \(first: .*take them out"):
        load_outliers(config, load_data(config))


def test_a_broken_outlier_stops_before_the_first_epoch(tmp_path, caplog) -> None:
    """It was met in whichever epoch drew it, and again whenever the run was resumed."""
    put(tmp_path, {**{f"{index}.png": encoded(index) for index in range(5)}, "5.png": encoded(5)[:60]})
    config = configured(str(tmp_path))
    data = load_data(config, check_images=False)
    with pytest.raises(UserError, match=r"cannot read 1 image: 5.png .*--data.skip_broken"):
        load_outliers(config, data)
    found = load_outliers(config.model_copy(update={"skip_broken": True}), data)
    assert found is not None and len(found) == 5 and "1 of 6 images cannot be read and are left out" in caplog.text


def test_a_set_that_is_named_later_is_compared_too(caplog) -> None:
    """A run that was shown textures was evaluated on them as if they were new to it."""
    trained = configured("bundled/textures")
    check_outliers(trained, load_data(trained, check_images=False))
    tested = trained.model_copy(update={"ood": {"again": OodSet(source="bundled/textures")}})
    with pytest.raises(UserError, match=r"data\.outliers shares \d+ images with again"):
        check_outliers(tested, load_data(tested, check_images=False))
    check_outliers(tested.model_copy(update={"outliers": None}), load_data(tested, check_images=False))
    moved = tested.model_copy(update={"outliers": "no/folder"})
    check_outliers(moved, load_data(moved, check_images=False))
    assert "cannot be told: No data at" in caplog.text
