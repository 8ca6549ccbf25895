"""The paper's protocol against an evaluation written anew from its description, in plain torch and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.data import ImageDataset, eval_transform
from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from ood_nc.evaluation.paper import PaperTaps
from ood_nc.models import ControlledModel
from ood_nc.report.documents import read_runs
from ood_nc.report.figures import build
from tests.helpers.tiny import arguments, tiny_model

TAPS = ["block2.conv", "block5.conv", "encoder", "projector"]


@pytest.fixture(scope="module")
def model() -> ControlledModel:
    taps = ("block2", "block5", "encoder", "projector")
    return tiny_model(backbone="convnet6", taps=taps, normalization="group_ws", img_size=None)


@pytest.fixture(scope="module")
def results(model: ControlledModel) -> Results:
    return evaluate(model, **arguments(), protocols=["strict", "paper"], detectors=["energy"], probes=["linear"])


def images_of(model: ControlledModel, dataset: ImageDataset) -> tuple[torch.Tensor, torch.Tensor]:
    view = dataset.with_transform(eval_transform(model.preprocessing))
    images = torch.stack([view[i][0] for i in range(len(view))])
    # In the layout of the extraction: convolutions add up in an order that depends on it.
    return images.contiguous(memory_format=torch.channels_last), torch.tensor(view.targets)


class Authors:
    """Their evaluation of one layer, from the weights and the images to the numbers."""

    def __init__(self, model: ControlledModel, tap: str) -> None:
        self.net, self.tap = model.eval(), tap

    def features(self, images: torch.Tensor) -> torch.Tensor:
        maps = images
        for index in range(1, 7):
            block: Any = self.net.backbone.get_submodule(f"block{index}")
            weight = block.conv.weight
            centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
            weight = centred / (weight.flatten(1).std(dim=1).view(-1, 1, 1, 1) + 1e-5)
            maps = F.conv2d(maps, weight, stride=block.conv.stride, padding=1)
            if f"block{index}.conv" == self.tap:
                return F.adaptive_avg_pool2d(maps, 2).flatten(1).detach()
            if index == 6 and self.tap == "encoder":
                return F.adaptive_avg_pool2d(maps, 1).flatten(1).detach()
            maps = F.relu(F.group_norm(maps, block.norm.num_groups, block.norm.weight, block.norm.bias))
        first, second = (layer.weight for layer in self.net.projector.layers)
        return (F.relu(maps.mean(dim=(2, 3)) @ first.T) @ second.T).detach()

    def probe(
        self, x: torch.Tensor, y: torch.Tensor, x_test: torch.Tensor, y_test: torch.Tensor, seed: int
    ) -> tuple[nn.Linear, float]:
        if self.tap == "projector":
            x, x_test = F.normalize(x, dim=1), F.normalize(x_test, dim=1)
        torch.manual_seed(seed)
        head = nn.Linear(x.shape[1], int(y.max()) + 1)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0)
        best = 0.0
        for _ in range(30):
            for batch in torch.randperm(len(x)).split(256):
                loss = nn.CrossEntropyLoss(label_smoothing=0.1)(head(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            best = max(best, float((head(x_test).argmax(dim=1) == y_test).float().mean()))
        return head, best


def collapse(h: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """NC1 to NC4 as written: a pseudo-inverse, Gram matrices, the bias term; float64."""
    h, w, b = (part.astype(np.float64) for part in (h, w, b))
    classes = int(y.max()) + 1
    means = np.stack([h[y == c].mean(axis=0) for c in range(classes)])
    centred = means - means.mean(axis=0)
    within = sum(np.cov(h[y == c].T, bias=True) * (y == c).mean() for c in range(classes))
    between = centred.T @ centred / classes
    frame = (np.eye(classes) - 1 / classes) / np.sqrt(classes - 1)
    gram, dual = w @ w.T, w @ centred.T
    return {
        "nc1_pinv": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes,
        "nc2_etf": np.linalg.norm(gram / np.linalg.norm(gram) - frame),
        "nc3_duality": np.linalg.norm(dual / np.linalg.norm(dual) - frame),
        "nc4_bias": np.linalg.norm(w @ means.mean(axis=0) + b),
    }


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(np.mean(outside > np.sort(inside)[round(0.05 * len(inside))]))


@pytest.mark.parametrize("tap", TAPS)
def test_every_number_is_that_of_the_authors_evaluation(model: ControlledModel, results: Results, tap: str) -> None:
    """Given the same probe: the weights that ours trained, which the energies and NC2 to NC4 depend on."""
    given = arguments()
    authors = Authors(model, tap)
    train, labels = images_of(model, given["id_train"])
    test, wanted = images_of(model, given["id"])
    tapped = PaperTaps(model.eval())
    with torch.no_grad():
        ours = tapped.forward_taps(train)[1][f"paper/{tap}"]
    features = authors.features(train)
    torch.testing.assert_close(ours, features, rtol=1e-5, atol=1e-6)
    from ood_nc.transfer import paper_probe

    unit = (lambda x: F.normalize(x, dim=1)) if tap == "projector" else (lambda x: x)
    probe = paper_probe(unit(features), labels, unit(authors.features(test)), wanted)
    assert probe.weight is not None
    assert probe.bias is not None
    expected = collapse(features.numpy(), labels.numpy(), probe.weight.numpy(), probe.bias.numpy())
    for name, value in expected.items():
        (row,) = results.select(protocol="paper", tap=tap, kind="collapse", dataset="id_train", metric=name)
        assert row["value"] == pytest.approx(value, rel=1e-6), name

    def energy(images: torch.Tensor) -> np.ndarray:
        logits = unit(authors.features(images)) @ probe.weight.T + probe.bias
        return torch.logsumexp(logits, dim=1).numpy()

    for name in ("digits", "textures"):
        outside, _ = images_of(model, given["ood"][name])
        (row,) = results.select(protocol="paper", tap=tap, dataset=name, method="energy", metric="fpr95_paper")
        assert row["value"] == pytest.approx(fpr95(energy(test), energy(outside)), abs=1e-6)


@pytest.mark.parametrize("tap", TAPS)
def test_probe_accuracies_are_within_the_seed_noise(model: ControlledModel, results: Results, tap: str) -> None:
    given = arguments()
    authors = Authors(model, tap)
    for dataset, pair in (
        ("id_test", (given["id_train"], given["id"])),
        ("more digits", given["transfer"]["more digits"]),
    ):
        (train, labels), (test, wanted) = (images_of(model, part) for part in pair)
        splits = authors.features(train), labels, authors.features(test), wanted
        accuracies = [authors.probe(*splits, seed)[1] for seed in range(5)]
        noise = max(np.std(accuracies), len(wanted) ** -0.5 / 2)
        (row,) = results.select(protocol="paper", tap=tap, dataset=dataset, method="linear", metric="accuracy")
        assert abs(row["value"] - np.mean(accuracies)) <= 3 * noise
        assert row["selected_on"] == "test split (the best epoch)"


def test_both_protocols_come_from_one_pass(model: ControlledModel) -> None:
    seen = []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    both = evaluate(model, **arguments(), protocols=["strict", "paper"], detectors=["energy"], probes=["linear"])
    handle.remove()
    assert sum(seen) == sum(entry["n"] for entry in both.identity["datasets"].values())
    assert {row["protocol"] for row in both.rows} == {"strict", "paper"}
    assert {row["protocol"] for row in both.main_rows} == {"strict"}
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, nn.Conv2d))


def test_the_strict_rows_are_the_same_without_the_papers(model: ControlledModel, results: Results) -> None:
    alone = evaluate(model, **arguments(), detectors=["energy"], probes=["linear"])
    kept = [row for row in results.rows if row["protocol"] == "strict" and row["metric"] != "seconds"]
    assert kept == [row for row in alone.rows if row["metric"] != "seconds"]
    assert results.relations == alone.relations
    assert results.choices == alone.choices


def test_what_strict_holds_out_of_id_train_is_fitted_on_all_the_same(model: ControlledModel, results: Results) -> None:
    held_out = evaluate(
        model, **arguments(), protocols=["strict", "paper"], detectors=["temperature"], probes=["linear"]
    )
    assert "id_val" in held_out.identity["datasets"]
    for tap in TAPS:
        where = {"protocol": "paper", "tap": tap, "kind": "collapse", "metric": "nc1_pinv"}
        (row,), (whole,) = held_out.select(**where), results.select(**where)
        assert row["n"] == whole["n"] == len(arguments()["id_train"])
        assert row["value"] == pytest.approx(whole["value"], rel=1e-6)


def test_the_protocol_has_figures_of_its_own(results: Results, tmp_path) -> None:
    results.save(tmp_path)
    (strict,), (paper,) = read_runs([tmp_path]), read_runs([tmp_path], protocol="paper")
    assert paper.taps == TAPS and paper.head_tap == "projector"
    assert {row["protocol"] for row in paper.rows} == {"paper"}
    assert len(strict.histograms) == len(paper.histograms) == 2 * 3  # two taps; ID and two OOD sets
    assert strict.maps and len(strict.maps) == len(paper.maps)
    assert [row["x"] for row in strict.maps] != [row["x"] for row in paper.maps]
    assert all(sum(row["counts"]) == results.identity["datasets"][row["dataset"]]["n"] for row in paper.histograms)
    drawn = {one.name for one in build([paper]) if one.panels}
    assert {"trade-off", "outcomes", "histograms", "maps", "profiles"} <= drawn
    outcomes = next(one for one in build([paper]) if one.name == "outcomes")
    where = {"protocol": "paper", "kind": "detection", "tap": "projector", "dataset": "mean", "group": "ood"}
    (mean,) = results.select(**where, metric="fpr95_id_positive")
    assert next(outcomes.rows())["y"] == pytest.approx(100 * mean["value"])


def test_taps_are_the_convolutions_of_the_models_own_taps(model: ControlledModel) -> None:
    tapped = PaperTaps(model)
    assert tapped.is_cnn
    assert [(tap.name, tap.info.pooling, tap.info.dim) for tap in tapped.paper_taps] == [
        ("block2.conv", "avg2x2", 4 * 32),
        ("block5.conv", "avg2x2", 4 * 128),
        ("encoder", "avg", 128),
        ("projector", "none", 128),
    ]


def test_a_residual_network_is_read_before_its_last_norm() -> None:
    model = ControlledModel("resnet10t", 5, taps=("stages", "encoder", "projector"), img_size=64)
    names = {tap.name: tap.read for tap in PaperTaps(model).paper_taps}
    modules = dict(model.backbone.named_modules())
    assert list(names) == ["conv1.6", *(f"layer{i}.0.conv2" for i in (1, 2, 3)), "encoder", "projector"]
    assert names["encoder"] is modules["layer4.0.conv2"], "not the convolution of the shortcut, which runs after it"


def test_a_transformer_is_read_at_the_projectors_input() -> None:
    model = ControlledModel(
        "vit_tiny_patch16_gap_sincos", 5, taps=("blocks.3", "encoder", "projector"), img_size=32
    ).eval()
    tapped = PaperTaps(model)
    assert not tapped.is_cnn
    with torch.no_grad():
        _, taps = tapped.forward_taps(torch.randn(2, 3, 32, 32))
    for name in ("blocks.3", "encoder", "projector"):
        assert torch.equal(taps[f"paper/{name}"], taps[name])


def test_a_set_that_cannot_be_probed_is_undefined_with_its_reason(model: ControlledModel) -> None:
    given = arguments() | {"transfer": {"one": (arguments()["ood"]["digits"], arguments()["ood"]["digits"])}}
    given["transfer"]["one"][0].targets[:] = 0
    given["transfer"]["one"][1].targets[:] = 0
    found = evaluate(model, **given, protocols=["paper"])
    rows = found.select(dataset="one", metric="accuracy")
    assert len(rows) == len(TAPS)
    assert all(row["value"] is None and "two classes" in row["reason"] for row in rows)
    assert found.relations, "the paper's rows alone are related too"


def test_an_unknown_protocol_is_refused(model: ControlledModel) -> None:
    with pytest.raises(UserError, match=r"strict, paper.*Did you mean"):
        evaluate(model, **arguments(), protocols=["papper"])
