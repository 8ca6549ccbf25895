"""What the cost of the evaluation is held against: pytorch-ood, and fifteen detectors written down in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot
from torch.utils.data import ConcatDataset, DataLoader, Dataset

BATCH = 128


class Unknown(Dataset[Any]):
    """A data set as pytorch-ood marks OOD: every label is -1."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.dataset[index][0], -1


def pytorch_ood(plain: Any, sets: dict[str, Any], transform: Any) -> str:
    """Eight detectors at the encoder: three read logits, five features, each kept once a set."""
    from pytorch_ood import detector as peers
    from pytorch_ood.benchmark import Benchmark
    from pytorch_ood.utils import extract_features

    known = sets["id"].with_transform(transform)
    outside = [Unknown(dataset.with_transform(transform)) for dataset in sets["ood"].values()]

    class OurSets(Benchmark):
        ood_names = tuple(sets["ood"])

        def train_set(self) -> Any:
            return sets["id_train"].with_transform(transform)

        def test_sets(self, known_too: bool = True, unknown: bool = True) -> list[Any]:
            return [ConcatDataset([known, one]) for one in outside]

    class Encoder(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            batch = batch.contiguous(memory_format=torch.channels_last)
            return plain.forward_head(plain.forward_features(batch), pre_logits=True)

    encoder = Encoder()
    benchmark, loader = OurSets(), {"batch_size": BATCH}
    features, labels = extract_features(DataLoader(benchmark.train_set(), **loader), encoder, "cpu")
    # One that is right of some image of every class, which SHE needs.
    weight, bias = _ridge(features, labels)
    head = nn.Linear(*weight.T.shape)
    head.load_state_dict({"weight": weight, "bias": bias})
    reads_features = [
        peers.Mahalanobis(encoder),
        peers.RMD(encoder),
        peers.ViM(encoder, d=weight.shape[1] // 2, w=weight, b=bias),
        peers.KNN(encoder),
        peers.SHE(encoder, head),
    ]
    reads_logits = [peers.MaxSoftmax(plain), peers.EnergyBased(plain), peers.MaxLogit(plain)]
    for one in reads_features:
        one.fit_features(features, labels)
    rows = benchmark.evaluate([*reads_features, *reads_logits], loader_kwargs=loader, cache=True)
    return f"{len(rows) // len(outside)} detectors at one tap, no intervals"


def reference(plain: Any, sets: dict[str, Any], transform: Any) -> str:
    """Fifteen detectors at every stage and the encoder in float32 PyTorch: AUROC and FPR95, no intervals, no checks."""
    names = {"train": sets["id_train"], "id": sets["id"], **sets["ood"]}
    banks = {name: _bank(plain, dataset.with_transform(transform)) for name, dataset in names.items()}
    labels = banks["train"][1]
    head = plain.get_classifier()
    values = 0
    for tap in range(len(banks["train"][0])):
        features = {name: taps[tap] for name, (taps, _) in banks.items()}
        own = tap == len(banks["train"][0]) - 1
        weight, bias = (head.weight.detach(), head.bias.detach()) if own else _ridge(features["train"], labels)
        logits = {name: rows @ weight.T + bias for name, rows in features.items()}
        for _, score in _detectors(features["train"], labels, weight, bias):
            inside = np.sort(score(features["id"], logits["id"]).numpy())
            for name in sets["ood"]:
                values += len(_auroc_and_fpr(inside, score(features[name], logits[name]).numpy()))
    return f"15 detectors at {len(banks['train'][0])} taps, {values} values, no intervals"


def _bank(plain: Any, dataset: Any) -> tuple[list[Tensor], Tensor]:
    """Pooled features of every stage and the encoder, and labels."""
    parts, labels = [], []
    with torch.inference_mode():
        for batch, label in DataLoader(dataset, batch_size=BATCH):
            final, maps = plain.forward_intermediates(batch.contiguous(memory_format=torch.channels_last))
            parts.append([one.mean(dim=(2, 3)) for one in maps] + [plain.forward_head(final, pre_logits=True)])
            labels.append(label)
    return [torch.cat(tap).clone() for tap in zip(*parts, strict=True)], torch.cat(labels)


def _ridge(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    mean, targets = rows.mean(dim=0), one_hot(labels).float()
    centred = rows - mean
    gram = centred.T @ centred
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, centred.T @ targets).T
    return weight, targets.mean(dim=0) - weight @ mean


def _detectors(
    rows: Tensor, labels: Tensor, weight: Tensor, bias: Tensor
) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """Scores of features and logits, larger = more in-distribution."""
    classes, mean = int(labels.max()) + 1, rows.mean(dim=0)
    means = torch.stack([rows[labels == label].mean(dim=0) for label in range(classes)])
    within, centred = rows - means[labels], rows - mean
    covariance = centred.T @ centred / len(rows)
    precision = torch.linalg.pinv(within.T @ within / len(rows), hermitian=True)
    background = torch.linalg.pinv(covariance, hermitian=True)
    vectors = torch.linalg.eigh(covariance)[1]
    rest, main = vectors[:, : len(vectors) // 2], vectors[:, -classes:]
    origin = -torch.linalg.pinv(weight) @ bias
    logits = rows @ weight.T + bias
    scale = logits.max(dim=1).values.mean() / ((rows - origin) @ rest).norm(dim=1).mean()
    bank, limit = normalize(rows), float(np.percentile(rows.numpy(), 90))

    def distance(h: Tensor, origins: Tensor, matrix: Tensor) -> Tensor:
        return torch.stack([(((h - one) @ matrix) * (h - one)).sum(dim=1) for one in origins]).min(dim=0).values

    def gen(z: Tensor) -> Tensor:
        p = z.softmax(dim=1).topk(min(100, classes), dim=1).values
        return -(p**0.1 * (1 - p) ** 0.1).sum(dim=1)

    yield "msp", lambda h, z: z.softmax(dim=1).max(dim=1).values
    yield "max_logit", lambda h, z: z.max(dim=1).values
    yield "energy", lambda h, z: z.logsumexp(dim=1)
    yield "entropy", lambda h, z: (z.softmax(dim=1) * z.log_softmax(dim=1)).sum(dim=1)
    yield "gen", lambda h, z: gen(z)
    yield "mahalanobis", lambda h, z: -distance(h, means, precision)
    yield (
        "relative_mahalanobis",
        lambda h, z: distance(h, mean[None], background) - distance(h, means, precision),
    )
    yield "residual", lambda h, z: -((h - origin) @ rest).norm(dim=1)
    yield "vim", lambda h, z: z.logsumexp(dim=1) - scale * ((h - origin) @ rest).norm(dim=1)
    yield "neco", lambda h, z: ((h - mean) @ main).norm(dim=1) / (h - mean).norm(dim=1) * z.max(dim=1).values
    yield "knn", lambda h, z: (normalize(h) @ bank.T).topk(50, dim=1).values[:, -1]
    yield "class_mean_cosine", lambda h, z: (normalize(h) @ normalize(means).T).max(dim=1).values
    yield "max_cosine", lambda h, z: (normalize(h) @ normalize(weight).T).max(dim=1).values
    yield "react", lambda h, z: (h.clamp_max(limit) @ weight.T + bias).logsumexp(dim=1)
    yield "she", lambda h, z: (h * means[z.argmax(dim=1)]).sum(dim=1)


def _auroc_and_fpr(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    outside = np.sort(outside)
    below, through = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    auroc = float((below + through).mean() / 2 / len(outside))
    return auroc, float((outside >= inside[int(0.05 * len(inside))]).mean())
