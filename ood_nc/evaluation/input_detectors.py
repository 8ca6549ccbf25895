"""Detectors that read images through the network: run only when they are named, once, on the whole network."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from ood_nc.data import ImageDataset
from ood_nc.detection import InputDetector, Network, create_detector
from ood_nc.evaluation.detection import Measured, Resamples, Scores, detection_rows, null_rows
from ood_nc.evaluation.inputs import Inputs, ood_key
from ood_nc.evaluation.results import MakeRow, reason_of
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
    sets = {"id_test": inputs.id_test}
    sets |= {ood_key(name): dataset for name, dataset in inputs.ood.items() if dataset is not None}
    measured = {}
    for name in detectors:
        start = time.perf_counter()
        make_one = functools.partial(make, method=name)
        try:
            detector = cast(InputDetector, create_detector(name)).fit(network, batches(inputs.id_train))
            scores = {key: _score(detector, batches(_readable(sets[key], ids[key]))) for key in sets if key in ids}
        except Exception as error:
            # One detector must not cost the others; the reason stands in its rows.
            measured[name] = Measured(null_rows(inputs.groups, reason_of(error), make_one), {})
            continue
        seconds, n = time.perf_counter() - start, sum(map(len, scores.values()))
        rows = [make_one(dataset="id_test", group="id", metric="seconds", value=seconds, n=n)]
        measured[name] = Measured(rows + detection_rows(scores, {}, inputs, ids, resamples, make_one), scores)
    return measured


def _readable(dataset: ImageDataset, ids: Sequence[str]) -> ImageDataset:
    wanted = set(ids)
    return dataset.subset([index for index, name in enumerate(dataset.ids) if name in wanted])


def _score(detector: InputDetector, batches: ImageBatches) -> Scores:
    scores: Scores = np.concatenate([detector.score(images).cpu().numpy() for images, _ in batches])
    return scores
