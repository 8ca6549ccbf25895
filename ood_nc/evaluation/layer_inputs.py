"""Every layer's input at the end of training, and how many layers are associative memories: rows of kind ``layer``."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ood_nc.config import IntermediateConfig
from ood_nc.devices import choose_device
from ood_nc.evaluation.results import STRICT, Results, make_row
from ood_nc.intermediate import effective_depth, low_rank_accuracy, measure_layers, sample_indices
from ood_nc.models import ControlledModel

WHOLE = "network"
"""The tap of rows that are about the whole network."""


def add_layer_inputs(
    results: Results,
    model: ControlledModel,
    id_train: Dataset,
    id_test: Dataset,
    settings: IntermediateConfig,
    *,
    batch_size: int,
    device: torch.device | str,
) -> None:
    """Append to the results the rows of each layer's input, the effective depth, and accuracy at rank C.

    ``accuracy_rank_c`` is the ID test accuracy with that layer's weight cut to rank C; ``accuracy_rank_c_onward`` with
    the weights of that layer and all later ones.

    Args:
        results: of the evaluation of this model; its identity gives run and seed.
        model: the model.
        id_train: (image, label), with the model's transform; class means come from a seeded sample of it.
        id_test: likewise, for nearest class means and accuracies.
        settings: the section of the configuration.
        batch_size: images a forward pass.
        device: where the model runs.
    """
    run, seed = results.identity["run"], results.identity["seed"]
    chosen = sample_indices(len(id_train), settings.images, seed)  # type: ignore[arg-type]
    train = DataLoader(Subset(id_train, chosen), batch_size=batch_size)
    test = DataLoader(id_test, batch_size=batch_size)
    device = choose_device(device)
    model = model.to(device)
    reports = measure_layers(
        model, train, {"id_test": test}, num_classes=model.num_classes, rank=settings.rank, device=device
    )
    make = partial(make_row, {"run": run, "seed": seed, "protocol": STRICT, "kind": "layer", "group": "id"})
    sizes = {"id_train": len(chosen), "id_test": len(id_test)}  # type: ignore[arg-type]
    for number, report in enumerate(reports):
        here = partial(make, tap=report.layer.name, depth=report.layer.depth)
        results.rows += [
            here(dataset=name, metric=metric, value=value, n=sizes[name]) for metric, name, value in report.metrics()
        ]
        for metric, layers in (("", reports[number : number + 1]), ("_onward", reports[number:])):
            value = low_rank_accuracy(model, [one.layer for one in layers], test, rank=model.num_classes, device=device)
            results.rows.append(
                here(dataset="id_test", metric=f"accuracy_rank_c{metric}", value=value, n=sizes["id_test"])
            )
    depth = effective_depth(reports, tolerance=settings.tolerance)
    reason = "the nearest class mean of the last layer's input is not right on the training images"
    results.rows.append(
        make(tap=WHOLE, dataset="id_train", metric="effective_depth", value=depth, reason=reason, n=len(chosen))
    )
