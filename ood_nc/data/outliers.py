"""Outliers that a network is shown while it learns: images that no ID set and no tested OOD set holds."""

from __future__ import annotations

import logging

from ood_nc.config import DataConfig
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.inputs import Inputs
from ood_nc.data.overlap import Role, find_overlaps
from ood_nc.data.run_data import open_configured, without_broken
from ood_nc.errors import UserError
from ood_nc.processes import is_main_process

logger = logging.getLogger(__name__)


def load_outliers(config: DataConfig, data: Inputs, *, workers: int = 0) -> ImageDataset | None:
    """The set of outliers of a configuration; None where it names none.

    Args:
        config: of the data.
        data: the other sets of the run.
        workers: threads that decode: every image is, before the training reads one.

    Raises:
        UserError: the source cannot be opened, has no images or a broken one, or shares some with ID or with an OOD set
            that is tested: a detector would be tested on what the network was told to be an outlier.

    Example:
        >>> from ood_nc.data import load_data
        >>> config = DataConfig(outliers="bundled/textures", ood={"near": "bundled/digits-near"})
        >>> load_outliers(config, load_data(config, check_images=False)).name
        'bundled/textures'
    """
    if config.outliers is None:
        return None
    found = open_configured(config, config.outliers)
    if len(found) == 0:
        raise UserError(f"data.outliers: {config.outliers} holds no images.")
    notes: list[str] = []
    found = without_broken(found, config, notes, workers=workers)
    for note in notes if is_main_process() else ():
        logger.warning("%s", note)
    _check_apart(found, data)
    return found


def check_outliers(config: DataConfig, data: Inputs) -> None:
    """Refuse to test a network on what it was shown as outliers; `load_outliers` knew the sets of that time alone.

    Raises:
        UserError: a set shares images with the outliers of the configuration.

    Example:
        >>> from ood_nc.data import load_data
        >>> config = DataConfig(outliers="bundled/textures", ood={"near": "bundled/digits-near"})
        >>> check_outliers(config, load_data(config, check_images=False))
    """
    if config.outliers is None:
        return
    try:
        found = open_configured(config, config.outliers)
    except UserError as error:  # they need not be where the network is measured
        logger.warning("whether tested images were shown as outliers (data.outliers) cannot be told: %s", error)
        return
    _check_apart(found, data)


def _check_apart(outliers: ImageDataset, data: Inputs) -> None:
    sets = {"outliers": outliers} | {name: one for name, one in data.all().items() if not name.startswith("transfer/")}
    roles: dict[str, Role] = dict.fromkeys(sets, "test")
    roles["outliers"] = "fit"
    for overlap in find_overlaps(sets, roles):
        if overlap.first == "outliers":
            name = overlap.second.removeprefix("ood/")
            raise UserError(
                f"data.outliers shares {len(overlap.ids)} images with {name} (first: {overlap.ids[0]}): take them out "
                "of one of the two."
            )
