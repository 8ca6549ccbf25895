"""Detectors that read images through the network: run only when they are named, once, on the whole network."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from ood_nc.data import ImageDataset, ood_key
from ood_nc.detection import InputDetector, Network, create_detector
from ood_nc.evaluation.detection import Measured, Scored, Scores, measure_one
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.features import ImageBatches


def measure_input_detectors(plan: Plan) -> dict[str, Measured]:
    """Fit each on ID train images and score the others; one that fails is a null row with the reason.

    Its rows stand at the tap that the head reads.
    """

    def batches(dataset: ImageDataset) -> ImageBatches:
        return ImageBatches(dataset, **plan.loading)

    network, make = Network(plan.model.to(plan.device)), plan.of("detection", plan.model.head_tap)
    sets = {"id_test": plan.inputs.all()["id_test"]}
    sets |= {ood_key(name): dataset for name, dataset in plan.inputs.ood.items() if dataset is not None}
    ids = plan.ids
    tested = {key: batches(_readable(dataset, ids[key])) for key, dataset in sets.items() if key in ids}
    train = batches(plan.inputs.id_train)
    runs = {name: functools.partial(_through, name, network, train, tested) for name in plan.input_detectors}
    return {name: measure_one(name, run, plan, make) for name, run in runs.items()}


def _through(name: str, network: Network, train: ImageBatches, tested: Mapping[str, ImageBatches]) -> Scored:
    detector = cast(InputDetector, create_detector(name)).fit(network, train)
    return Scored({key: _score(detector, images) for key, images in tested.items()})


def _readable(dataset: ImageDataset, ids: Sequence[str]) -> ImageDataset:
    wanted = set(ids)
    return dataset.subset([index for index, name in enumerate(dataset.ids) if name in wanted])


def _score(detector: InputDetector, batches: ImageBatches) -> Scores:
    scores: Scores = np.concatenate([detector.score(images).cpu().numpy() for images, _ in batches])
    return scores
