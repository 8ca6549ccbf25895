"""Private last-layer training on CIFAR-10 features: the tables of docs/privacy.md, as CSV.

python scripts/private_cifar.py FEATURES OUT [TABLE ...]

FEATURES is what private_features.py wrote. Fifteen minutes of one core; rows that OUT has are not computed again.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.detection import auroc
from ood_nc.files import write_text
from ood_nc.privacy import PrivateHead, feature_shift, fit_private_head
from ood_nc.sealed import read_sealed

DELTA, SEEDS, CLASSES, COMPONENTS, STEPS = 1e-5, range(5), 10, 40, 30
EPSILONS = (1.0, 4.0, 8.0, math.inf)
Sets = dict[str, torch.Tensor]
Row = dict[str, Any]
Rows = Iterator[tuple[Row, Callable[[], Row]]]
"""What names a row, and what computes the rest of it."""


def load(folder: Path, backbone: str) -> tuple[Sets, torch.Tensor]:
    _, tensors = read_sealed(folder / f"{backbone}.safetensors")
    return tensors, torch.from_numpy(np.load(folder / f"{backbone}-public.npy"))


def remedies(public: torch.Tensor) -> dict[str, dict[str, Any]]:
    """Settings by name. Raw features learn at a rate of their public mean square, so that all start alike."""
    raw = 10 / float(public.square().sum(dim=1).mean())
    few = {"components": COMPONENTS, "center": True}
    return {
        "raw": {"normalize": False, "learning_rate": raw},
        "normalised": {},
        "public PCA": {"normalize": False, "public": public, **few, "learning_rate": raw},
        "normalised, public PCA": {"public": public, **few},
        "normalised, paid PCA": dict(few),
    }


def fit(x: torch.Tensor, y: torch.Tensor, epsilon: float, seed: int, **settings: Any) -> PrivateHead:
    settings = {"steps": STEPS, "delta": DELTA, "num_classes": CLASSES, **settings}
    return fit_private_head(x, y, epsilon=epsilon, seed=seed, **settings)


def sampled(public: torch.Tensor) -> dict[str, dict[str, Any]]:
    """DP-SGD on Poisson samples of a tenth: its smaller rate times its steps go as far as those of the full batches."""
    settings = {"method": "dp_sgd", "accountant": "rdp", "steps": 100, "learning_rate": 3.0}
    chosen = {name: remedies(public)[name] for name in ("normalised", "normalised, public PCA")}
    return {f"{name}, DP-SGD": {**own, **settings} for name, own in chosen.items()}


def accuracies(sets: Sets, chosen: dict[str, dict[str, Any]], epsilons: tuple[float, ...] = EPSILONS) -> Rows:
    """Accuracy, detection from the logits alone and collapse by remedy, epsilon and seed."""
    for remedy, settings in chosen.items():
        for epsilon in epsilons:
            for seed in SEEDS if epsilon < math.inf else range(1):
                key = {"remedy": remedy, "epsilon": epsilon, "seed": seed}
                yield key, partial(measured, sets, epsilon, seed, settings)


def measured(sets: Sets, epsilon: float, seed: int, settings: dict[str, Any]) -> Row:
    """One head: accuracy, detection, collapse."""
    x, y = sets["id_train/encoder"], sets["id_train/labels"]
    head = fit(x, y, epsilon, seed, **settings)
    row: Row = {"stated": head.statement.epsilon}
    row["accuracy"] = head.accuracy(sets["id_test/encoder"], sets["id_test/labels"])
    energies = {
        name: head.logits(sets[f"{name}/encoder"]).logsumexp(dim=1)
        for name in ("id_test", "far/textures", "far/flowers")
    }
    for name in ("far/textures", "far/flowers"):
        row[f"auroc {name[4:]}"] = auroc(energies["id_test"], energies[name])
    return row | collapse(head, x, y, seed)


def collapse(head: PrivateHead, x: torch.Tensor, y: torch.Tensor, seed: int) -> dict[str, float | None]:
    """Of the prepared training features with the head; of the first seed alone, the others differ in the head only."""
    names = ["nc1_pinv", "nc2_etf", "nc3_duality", "nc4_bias"]
    if seed:
        return dict.fromkeys(names)
    prepared = head.preparation(x)
    stats = ClassStatistics(CLASSES, prepared.shape[1]).update(prepared, y)
    values = measure(stats, weight=head.weight, bias=head.bias, metrics=names).to_dict()
    return {name: values[name] for name in names}


def shifts(folder: Path, backbones: list[str]) -> Rows:
    """Feature shift and accuracy of each backbone."""
    for name in backbones:
        yield {"backbone": name}, partial(shift, folder, name)


def shift(folder: Path, backbone: str) -> Row:
    """Those of one backbone."""
    sets, _ = load(folder, backbone)
    x, y = sets["id_train/encoder"], sets["id_train/labels"]
    found = feature_shift(x, y)
    row: Row = {"dim": x.shape[1]}
    for kind in ("sup", "euclidean"):
        row |= {f"{kind} {part}": value for part, value in getattr(found, kind)._asdict().items()}
    for epsilon in (1.0, math.inf):
        heads = [fit(x, y, epsilon, seed) for seed in (range(3) if epsilon < math.inf else range(1))]
        tested = [head.accuracy(sets["id_test/encoder"], sets["id_test/labels"]) for head in heads]
        row[f"accuracy {epsilon:g}"] = float(np.mean(tested))
    return row


def perturbed(sets: Sets) -> Iterator[tuple[str, Sets]]:
    """The sets as they are, and with each disturbance; its size is in mean norms of the training features."""
    generator = torch.Generator().manual_seed(0)
    scale = float(sets["id_train/encoder"].norm(dim=1).mean())
    dim = sets["id_train/encoder"].shape[1]
    parts = ("id_train/encoder", "id_test/encoder")

    def noisy(names: tuple[str, ...], size: float) -> Sets:
        drawn = {n: size * scale / dim**0.5 * torch.randn(sets[n].shape, generator=generator) for n in names}
        return sets | {name: sets[name] + noise for name, noise in drawn.items()}

    yield "none", sets
    for size in (0.5, 1.0):
        yield f"noise {size:g} on train", noisy(parts[:1], size)
        yield f"noise {size:g} on test", noisy(parts[1:], size)
    offset = 2 * scale * F.normalize(torch.randn(dim, generator=generator), dim=0)
    yield "offset 2", sets | {name: sets[name] + offset for name in parts}
    y = sets["id_train/labels"]
    # Class c keeps 0.1^(c/9) of its samples: 1000 down to 100.
    kept = torch.cat([torch.nonzero(y == c)[: round(1000 * 0.1 ** (c / 9)), 0] for c in range(CLASSES)])
    yield "imbalance 10", sets | {"id_train/encoder": sets["id_train/encoder"][kept], "id_train/labels": y[kept]}


def perturbations(sets: Sets, public: torch.Tensor) -> Rows:
    """Accuracy under each disturbance, private and not, without a remedy and with each."""
    chosen = ("raw", "normalised", "normalised, public PCA")
    settings = {name: value for name, value in remedies(public).items() if name in chosen}
    for disturbance, given in perturbed(sets):
        for remedy in chosen:
            for epsilon in (1.0, math.inf):
                for seed in SEEDS if epsilon < math.inf else range(1):
                    key = {"disturbance": disturbance, "remedy": remedy, "epsilon": epsilon, "seed": seed}
                    yield key, partial(tested, given, epsilon, seed, settings[remedy])


def tested(sets: Sets, epsilon: float, seed: int, settings: dict[str, Any]) -> Row:
    """Accuracy of one head."""
    head = fit(sets["id_train/encoder"], sets["id_train/labels"], epsilon, seed, **settings)
    return {"accuracy": head.accuracy(sets["id_test/encoder"], sets["id_test/labels"])}


def cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def write(path: Path, rows: Rows) -> None:
    """Write a table as it grows, computing what it has not."""
    known: list[dict[str, str]] = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            known = list(csv.DictReader(file))
    found: list[dict[str, str]] = []
    for named, compute in rows:
        key = {name: cell(value) for name, value in named.items()}
        there = [row for row in known if key.items() <= row.items()]
        row = there[0] if there else key | {name: cell(value) for name, value in compute().items()}
        found.append(row)
        if there:
            known.remove(row)
        text = io.StringIO()
        table = csv.DictWriter(text, list(row), lineterminator="\n")
        table.writeheader()
        table.writerows([*found, *known])
        write_text(path, text.getvalue())


def main() -> None:
    features, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    sets, public = load(features, "lite0-96")
    tables = {
        "accuracy": lambda: accuracies(sets, remedies(public)),
        "dp_sgd": lambda: accuracies(sets, sampled(public), EPSILONS[:-1]),
        "perturbations": lambda: perturbations(sets, public),
        "shift": lambda: shifts(features, ["lite0-untrained", "lite0-48", "lite0-96", "resnet20", "resnet32"]),
    }
    for name in sys.argv[3:] or tables:
        write(out / f"{name}.csv", tables[name]())


if __name__ == "__main__":
    main()
