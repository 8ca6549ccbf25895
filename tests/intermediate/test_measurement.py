"""Layers' inputs against loops over samples, scipy's subspace angles, and networks whose collapse is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import nn

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.errors import UserError
from ood_nc.intermediate import effective_depth, low_rank_accuracy, measure_layers, watch_inputs, weighted_layers
from ood_nc.models import ControlledModel


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 12), nn.ReLU(), nn.Linear(12, 3)
    ).train()


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    images = torch.randn(60, 2, 4, 4, generator=generator) + labels[:, None, None, None]
    return list(zip(images.split(16), labels.split(16), strict=True))


def inputs_of(network, batches):
    """Every layer's input by hand."""
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    with torch.no_grad():
        maps = images
        flat = torch.relu(network[0](maps)).flatten(1)
        hidden = torch.relu(network[3](flat))
        return {"0": maps.flatten(1), "3": flat, "5": hidden}, labels, network[5](hidden).argmax(1)


def test_every_number_is_that_of_a_loop_over_samples(network, batches):
    inputs, labels, predictions = inputs_of(network, batches)
    reports = measure_layers(network, batches, {"id_test": batches[:2]}, num_classes=3, rank=2)
    assert [report.layer.name for report in reports] == ["0", "3", "5"]
    assert [report.layer.dim for report in reports] == [32, 96, 12]
    assert network.training
    for report in reports:
        rows = inputs[report.layer.name].double().numpy()
        means = np.stack([rows[labels == c].mean(0) for c in range(3)])
        within = np.mean([((row - means[label]) ** 2).sum() for row, label in zip(rows, labels.tolist(), strict=True)])
        between = ((means - means.mean(0)) ** 2).sum() / 3
        spread = [((rows[labels == c] - means[c]) ** 2).sum(1).mean() for c in range(3)]
        pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
        cdnv = np.mean([(spread[a] + spread[b]) / (2 * ((means[a] - means[b]) ** 2).sum()) for a, b in pairs])
        nearest = ((rows[:, None] - means[None]) ** 2).sum(2).argmin(1)
        expected = {
            "trace_within": within,
            "trace_between": between,
            "within_share": within / (within + between),
            "cdnv": cdnv,
        }
        assert {name: report.values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert report.ncc["id_train"] == np.mean(nearest == labels.numpy())
        assert report.agreement["id_train"] == np.mean(nearest == predictions.numpy())
        assert report.ncc["id_test"] == np.mean(nearest[:32] == labels.numpy()[:32])


def test_the_same_inputs_as_taps_of_the_main_job_have_the_same_collapse():
    names = ("block2.conv", "block5.conv")
    taps = [f"{name}@input" for name in names]
    model = ControlledModel("convnet6", 3, projector=None, taps=taps, pooling="flatten", in_chans=1, img_size=16).eval()
    labels = torch.arange(30) % 3
    images = torch.randn(30, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]
    reports = {one.layer.name: one for one in measure_layers(model, [(images, labels)], num_classes=3)}
    with torch.no_grad():
        _, features = model.forward_taps(images)
    for name, tap in zip(names, taps, strict=True):
        report = reports[f"backbone.{name}"]
        assert model.tap_info[tap].dim == report.layer.dim
        stats = ClassStatistics(3, report.layer.dim).update(features[tap], labels)
        found = measure(stats, metrics=("within_share", "cdnv")).to_dict()
        for metric in ("within_share", "cdnv"):
            assert found[metric] == pytest.approx(report.values[metric], rel=1e-6)


def test_alignment_is_scipys(network, batches):
    inputs, labels, _ = inputs_of(network, batches)
    first, _, last = measure_layers(network, batches, num_classes=3, rank=2)
    means = torch.stack([inputs["5"][labels == c].mean(0) for c in range(3)]).double()
    angles = subspace_angles(means.T.numpy(), network[5].weight.detach().double().T.numpy())
    assert last.values["pabs"] == pytest.approx(np.cos(angles).mean(), abs=1e-6)
    maps = torch.stack([inputs["0"][labels == c].mean(0) for c in range(3)]).double().view(3, 2, 16)
    kernel = network[0].weight.detach().double().transpose(0, 1).reshape(2, -1)
    sides = [np.linalg.svd(part)[0][:, :2] for part in (maps.transpose(0, 1).reshape(2, -1).numpy(), kernel.numpy())]
    assert first.values["pabs"] == pytest.approx(np.cos(subspace_angles(*sides)).mean(), abs=1e-6)


def test_tokens_are_channels_at_positions(batches):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5), nn.Flatten(), nn.Linear(10, 3))
    tokens, _ = measure_layers(network, batches, num_classes=3, rank=3)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    means = torch.stack([images[labels == c].mean(0) for c in range(3)]).double().flatten(2)  # (C, N, d)
    rows = np.linalg.svd(means.flatten(0, 1).T.numpy())[0][:, :3]
    weight = np.linalg.svd(network[1].weight.detach().double().T.numpy())[0][:, :3]
    assert tokens.values["pabs"] == pytest.approx(np.cos(subspace_angles(rows, weight)).mean(), abs=1e-6)


def test_a_collapsed_input_is_seen_as_such():
    """Images that are their class's corner of a simplex: nothing within, all of it between, NCC right everywhere."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False))
    network[1].weight.data = torch.eye(3)
    labels = torch.arange(12) % 3
    report, = measure_layers(network, [(torch.eye(3)[labels].view(12, 1, 1, 3), labels)], num_classes=3)  # fmt: skip
    assert report.values["within_share"] == report.values["cdnv"] == 0
    assert report.values["pabs"] == pytest.approx(1)
    assert report.values["nc2_angle"] == pytest.approx(0, abs=1e-12)
    assert effective_depth([report]) == 0


def test_effective_depth_asks_all_later_layers(network, batches):
    reports = measure_layers(network, batches, num_classes=3)
    for report, right in zip(reports, (1.0, 0.5, 1.0), strict=True):
        report.ncc["id_train"] = right
    assert effective_depth(reports) == 2
    reports[1].ncc["id_train"] = 0.995
    assert effective_depth(reports) == 0
    reports[2].ncc["id_train"] = 0.5
    assert effective_depth(reports) is None


def test_tied_weights_are_layers_of_their_own(batches):
    torch.manual_seed(0)
    linear = nn.Linear(32, 32)
    network = nn.Sequential(nn.Flatten(), linear, nn.ReLU(), linear, nn.ReLU(), nn.Linear(32, 3))
    reports = measure_layers(network, batches, num_classes=3)
    assert [report.layer.name for report in reports] == ["1", "1#2", "5"]
    assert reports[0].values["trace_within"] != reports[1].values["trace_within"]
    again = measure_layers(network, batches, num_classes=3)
    assert [report.values for report in again] == [report.values for report in reports]


def test_a_rank_c_memory(network, batches):
    """Full rank changes nothing; rank 1 of the head leaves what its leading direction decides; weights come back."""
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    layers = weighted_layers(network, images)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        plain = float((network(images).argmax(1) == labels).double().mean())
        left, lengths, right = np.linalg.svd(network[5].weight.double().numpy(), full_matrices=False)
        hidden = torch.relu(network[3](torch.relu(network[0](images)).flatten(1))).double()
        logits = hidden @ torch.from_numpy(lengths[0] * np.outer(left[:, 0], right[0])).T + network[5].bias
        one = float((logits.argmax(1) == labels).double().mean())
    assert low_rank_accuracy(network, layers, batches, rank=96) == pytest.approx(plain)
    assert low_rank_accuracy(network, layers[2:], batches, rank=1) == pytest.approx(one)
    assert low_rank_accuracy(network, [], batches, rank=1) == pytest.approx(plain)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_hooks_are_gone_and_a_network_without_layers_is_refused(network, batches):
    seen: list[str] = []
    with watch_inputs(network, lambda name, _: seen.append(name)):
        network(batches[0][0])
    network(batches[0][0])
    assert seen == ["0", "3", "5"]
    with pytest.raises(UserError, match="no linear or convolutional layer"):
        measure_layers(nn.Flatten(), batches, num_classes=3)


def test_a_grouped_convolution_has_no_alignment(batches):
    network = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3))
    grouped, head = measure_layers(network, batches, num_classes=3)
    assert "pabs" not in grouped.values
    assert 0 <= head.values["pabs"] <= 1


def test_a_layer_on_a_table_that_all_images_share_is_none_of_theirs(batches):
    """As in Swin V2, whose linear layers on relative positions are given one row whatever the batch."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Linear(2, 32), nn.Linear(32, 3)

        def forward(self, images):
            return self.head(images.flatten(1) + self.table(torch.ones(1, 2)))

    for part in (batches, [(images[:1], labels[:1]) for images, labels in batches]):
        assert [report.layer.name for report in measure_layers(Shared(), part, num_classes=3)] == ["head"]


def test_batches_that_are_gone_or_none_are_one_line(network, batches):
    """Of a generator the first batch was left out, and then there was a division by zero."""
    for train in ((batch for batch in batches), []):
        with pytest.raises(UserError, match="training batches are read several times: give a list or a DataLoader"):
            measure_layers(network, train, num_classes=3)
    with pytest.raises(UserError, match="A test set has no images"):
        measure_layers(network, batches, {"id_test": []}, num_classes=3)
    with pytest.raises(UserError, match="There are no images to be right on"):
        low_rank_accuracy(network, [], [], rank=1)
    once = measure_layers(network, batches, {"id_test": (batch for batch in batches)}, num_classes=3)
    assert all(report.ncc["id_test"] == report.ncc["id_train"] for report in once)
