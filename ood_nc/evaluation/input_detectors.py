"""Detectors that read images through the network: run only when they are named, once, on the whole network."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from ood_nc.data import ImageDataset, Inputs, ood_key
from ood_nc.detection import InputDetector, Network, create_detector
from ood_nc.evaluation.detection import Measured, Resamples, Scored, Scores, measure_one
from ood_nc.evaluation.results import MakeRow
from ood_nc.features import ImageBatches


def measure_input_detectors(
    model: Any,
    inputs: Inputs,
    ids: Mapping[str, Sequence[str]],
    detectors: Iterable[str],
    resamples: Resamples,
    make: MakeRow,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> dict[str, Measured]:
    """Fit each on ID train images and score the others; one that fails is a null row with the reason.

    Args:
        model: the network.
        inputs: the sets, preprocessed.
        ids: by set key, the ids of the readable images.
        detectors: names of input detectors.
        resamples: for the intervals.
        make: makes a row of the tap that the head reads.
        batch_size: images a pass.
        workers: processes that load images.
        device: where the network runs.
    """
    network = Network(model.to(device))
    batches = functools.partial(ImageBatches, batch_size=batch_size, workers=workers)
    sets = {"id_test": inputs.all()["id_test"]}
    sets |= {ood_key(name): dataset for name, dataset in inputs.ood.items() if dataset is not None}
    tested = {key: batches(_readable(dataset, ids[key])) for key, dataset in sets.items() if key in ids}
    train = batches(inputs.id_train)
    return {
        name: measure_one(name, functools.partial(_through, name, network, train, tested), inputs, ids, resamples, make)
        for name in detectors
    }


def _through(name: str, network: Network, train: ImageBatches, tested: Mapping[str, ImageBatches]) -> Scored:
    detector = cast(InputDetector, create_detector(name)).fit(network, train)
    return Scored({key: _score(detector, images) for key, images in tested.items()})


def _readable(dataset: ImageDataset, ids: Sequence[str]) -> ImageDataset:
    wanted = set(ids)
    return dataset.subset([index for index, name in enumerate(dataset.ids) if name in wanted])


def _score(detector: InputDetector, batches: ImageBatches) -> Scores:
    scores: Scores = np.concatenate([detector.score(images).cpu().numpy() for images, _ in batches])
    return scores
