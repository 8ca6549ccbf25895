"""What is measured while a model trains: averages of the steps, the validation split, collapse."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import Dataset, Subset

from ood_nc.collapse import ClassStatistics, measure, measure_multilabel
from ood_nc.config import IntermediateConfig
from ood_nc.errors import UserError
from ood_nc.intermediate import effective_depth, measure_layers, sample_indices
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel
from ood_nc.progress import progress
from ood_nc.training.loading import eval_loader
from ood_nc.training.seeds import derive_seed

COLLAPSE_IMAGES = 2048


class StepAverages:
    """Averages of loss, its parts and accuracy over the batches since the last reading, over all processes.

    The numbers stay on the device until they are read, so a step does not wait for them.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._names: list[str] = []
        self._taps: list[str] = []
        self._rows: list[torch.Tensor] = []
        self._images = 0
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Begin anew."""
        self._rows, self._images, self._since = [], 0, time.perf_counter()

    def add(
        self,
        loss: torch.Tensor,
        parts: Mapping[str, torch.Tensor],
        logits: torch.Tensor,
        targets: torch.Tensor,
        taps: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Take the numbers of one batch: of the taps' features only whether they are finite.

        `is_right` says what counts for the accuracy.
        """
        accuracy = is_right(logits.detach(), targets).float().mean()
        self._names = ["loss", *parts, "accuracy"]
        self._taps = list(taps or {})
        sums = [features.detach().float().sum() for features in (taps or {}).values()]
        self._rows.append(torch.stack([loss.detach().float(), *(p.float() for p in parts.values()), accuracy, *sums]))
        self._images += len(targets)

    def read(self, *, last_step: int, batches_per_step: int = 1) -> dict[str, float]:
        """The averages, and images per second; empties the store.

        Args:
            last_step: the optimiser step that the last batch belongs to.
            batches_per_step: batches that make one step.

        Raises:
            UserError: the loss of a batch was not finite, in whichever process; the message names its step, and the
                first tap whose features were not finite either.
        """
        rows = self._accelerator.reduce(torch.stack(self._rows), "mean").cpu().double()
        elapsed = time.perf_counter() - self._since
        images = self._images * self._accelerator.num_processes
        self.restart()
        bad = (~rows[:, 0].isfinite()).nonzero()
        if len(bad):
            step = last_step - (len(rows) - 1 - int(bad[0])) // batches_per_step
            row, width = rows[int(bad[0])], len(self._names)
            taps = zip(self._taps, row[width:].isfinite().tolist(), strict=True)
            raise diverged(float(row[0]), step, next((tap for tap, finite in taps if not finite), None))
        values = dict(zip(self._names, rows.mean(0).tolist(), strict=False))
        return {**values, "images_per_second": images / max(elapsed, 1e-9)}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the batches of this process that wait to be read."""
        return {"rows": torch.stack(self._rows) if self._rows else None, "images": self._images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.restart()
        if state["rows"] is not None:
            self._rows = list(state["rows"].to(self._accelerator.device).unbind())
        self._images = state["images"]


def is_right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether each sample (B,) is classified right: its class, the heaviest class of a mixed one, or its label set.

    A label set, of 0 and 1 alone, is right where its |S| labels have the |S| largest logits (subset accuracy).
    """
    if not targets.is_floating_point():
        return logits.argmax(1) == targets
    if not bool(((targets == 0) | (targets == 1)).all()):
        return logits.argmax(1) == targets.argmax(1)
    least = logits.masked_fill(targets == 0, torch.inf).amin(1)
    return least > logits.masked_fill(targets == 1, -torch.inf).amax(1)


def diverged(loss: float, step: int, tap: str | None = None) -> UserError:
    """The error for a loss that is not finite, and the first tap whose features were not."""
    where = "" if tap is None else f", its first features that are not finite those of tap {tap!r}"
    return UserError(
        f"The loss became {loss} at step {step}{where}; the checkpoint of the last finished epoch is kept. Start "
        "another --experiment with a lower optim.lr, or with train.clip_grad."
    )


@torch.no_grad()
def validate(
    model: ControlledModel,
    dataset: Dataset,
    objective: Objective,
    accelerator: Accelerator,
    *,
    batch_size: int,
    workers: int = 0,
) -> dict[str, float]:
    """Loss and top-1 accuracy on ``dataset``, each sample counted once whatever the number of processes.

    The loss is the task loss alone, for the entropy term depends on which samples share a batch; where a term takes the
    place of the task, all terms.

    Args:
        model: evaluated as it is in this process, without its distributed wrapper.
        dataset: (image, target), with the evaluation transform.
        objective: the training objective, for its task loss.
        accelerator: the processes and the precision.
        batch_size: images a batch.
        workers: processes that load.

    Returns:
        ``loss`` and ``accuracy``.
    """
    whole = objective.task == "none"
    task = objective if whole else Objective(objective.task, smoothing=objective.smoothing, entropy_weights={})
    loader = eval_loader(
        dataset,
        batch_size=batch_size,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    own = len(range(accelerator.process_index, len(dataset), accelerator.num_processes))  # type: ignore[arg-type]
    with progress("validating", total=len(loader.dataset)) as advance:  # type: ignore[arg-type]
        for images, targets in loader:
            images, targets = images.to(accelerator.device), targets.to(accelerator.device)
            with accelerator.autocast():
                logits, taps = model.forward_taps(images) if whole else (model(images), {})
            left = min(own - count, len(targets))  # an image that fills the last share up is another's
            kept = max(left, 1)  # where it stands alone too: all processes ask a term as often
            logits, targets, taps = logits[:kept], targets[:kept], {name: rows[:kept] for name, rows in taps.items()}
            loss, _ = task(logits, targets, taps, heads=model.heads, outliers=logits[:0])
            if left == 0:
                break
            loss_sum += float(loss) * left
            correct += int(is_right(logits, targets).sum())
            count += left
            advance(left)
    totals = gather_object([(loss_sum, correct, count)])
    loss_sum, correct, count = (sum(column) for column in zip(*totals, strict=True))
    return {"loss": loss_sum / count, "accuracy": correct / count}


def measure_collapse(
    model: ControlledModel,
    dataset: Dataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    images: int = COLLAPSE_IMAGES,
) -> dict[str, float]:
    """The collapse metrics of every tap on a seeded sample of ``dataset``, named ``collapse/<tap>/<metric>``.

    Args:
        model: the model.
        dataset: (image, target), with the evaluation transform.
        accelerator: the device and the precision.
        batch_size: images a batch.
        seed: seed of the sample, the same at every epoch.
        workers: processes that load.
        images: size of the sample.

    Returns:
        The metrics that are defined; weights and biases enter those of the tap that the head reads.
    """
    features, classes = sample_taps(
        model, dataset, accelerator, batch_size=batch_size, seed=seed, workers=workers, images=images
    )
    values: dict[str, float] = {}
    for tap, matrix in features.items():
        stats = ClassStatistics(model.num_classes, matrix.shape[1]).update(matrix, classes)
        weight, bias = _head(model, tap)
        if classes.ndim == 2:
            if not bool((classes.sum(dim=1) == 1).any()):  # whose means the others are measured by
                continue
            found = measure_multilabel(matrix, classes, weight=weight, bias=bias).to_dict()
            values.update({f"collapse/{tap}/{name}": value for name, value in found.items() if value is not None})
            continue
        report = measure(stats, weight=weight, bias=bias, features=matrix, labels=classes).to_dict()
        values.update({f"collapse/{tap}/{name}": value for name, value in report.items() if value is not None})
    return values


@torch.no_grad()
def sample_taps(
    model: ControlledModel,
    dataset: Dataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    images: int,
    seed: int = 0,
    workers: int = 0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Every tap (N, d) and the classes (N,) of a seeded sample; the arguments are those of `measure_collapse`."""
    size = len(dataset)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(derive_seed(seed, "collapse"))
    chosen = torch.randperm(size, generator=generator)[:images].sort().values.tolist()
    model.eval()
    features: dict[str, list[torch.Tensor]] = {tap: [] for tap in model.tap_names}
    labels = []
    with progress("measuring collapse", total=len(chosen)) as advance:
        for batch, targets in eval_loader(Subset(dataset, chosen), batch_size=batch_size, workers=workers):
            with accelerator.autocast():
                _, taps = model.forward_taps(batch.to(accelerator.device))
            for tap in features:
                features[tap].append(taps[tap].float().cpu())
            labels.append(targets)
            advance(len(targets))
    return {tap: torch.cat(parts) for tap, parts in features.items()}, torch.cat(labels)


def measure_layer_inputs(
    model: ControlledModel,
    train: Dataset,
    val: Dataset,
    settings: IntermediateConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
) -> dict[str, float]:
    """What `ood_nc.intermediate` measures on every layer's input, named ``layers/<layer>/<data set>/<metric>``.

    Args:
        model: the model.
        train: (image, target), with the evaluation transform; a seeded sample of it is measured.
        val: held-out ID, likewise, for the nearest class mean.
        settings: the section of the configuration.
        accelerator: the device and the precision.
        batch_size: images a batch.
        seed: seed of the sample, the same at every epoch.
        workers: processes that load.

    Returns:
        The numbers, and ``effective_depth`` where there is one.
    """
    sample = Subset(train, sample_indices(len(train), settings.images, seed))  # type: ignore[arg-type]
    loaders = [eval_loader(part, batch_size=batch_size, workers=workers) for part in (sample, val)]
    with accelerator.autocast():
        reports = measure_layers(
            model,
            loaders[0],
            {"id_val": loaders[1]},
            num_classes=model.num_classes,
            rank=settings.rank,
            device=accelerator.device,
        )
    found = {
        f"layers/{report.layer.name}/{dataset}/{metric}": value
        for report in reports
        for metric, dataset, value in report.metrics()
    }
    depth = effective_depth(reports, tolerance=settings.tolerance)
    return found if depth is None else {**found, "layers/effective_depth": depth}


def _head(model: ControlledModel, tap: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The head's weight and bias where ``tap`` is what the head reads."""
    if tap != model.head_tap:
        return None, None
    weight, bias = model.head_weight, model.head_bias
    return weight.detach().float().cpu(), None if bias is None else bias.detach().float().cpu()
