"""Multi-label collapse against slow loops, and features that are optimised freely until they collapse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ood_nc.collapse import measure_multilabel
from ood_nc.errors import UserError
from ood_nc.losses import pick_all_label

CLASSES = 4


def all_sets(multiplicities=(1, 2, 3)):
    """Every label set of those sizes, a row each."""
    rows = []
    for m in multiplicities:
        for chosen in itertools.combinations(range(CLASSES), m):
            row = torch.zeros(CLASSES, dtype=torch.float64)
            row[list(chosen)] = 1
            rows.append(row)
    return torch.stack(rows)


def test_every_number_is_that_of_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    sets = all_sets()[torch.randint(14, (400,), generator=generator)]
    features = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    features[:, :4] += sets * 2 + 0.5
    report = measure_multilabel(features, sets)
    rows, labels = features.numpy(), sets.numpy()
    size = labels.sum(1)
    mu = {k: rows[(size == 1) & (labels[:, k] == 1)].mean(0) for k in range(CLASSES)}
    origin = np.mean(list(mu.values()), axis=0)
    for part in report.by_multiplicity[1:]:
        own = rows[size == part.labels]
        names = [tuple(np.flatnonzero(row)) for row in labels[size == part.labels]]
        means = {name: own[[other == name for other in names]].mean(0) - origin for name in set(names)}
        sums = {name: sum(mu[k] - origin for k in name) for name in means}

        def angle(a, b):
            return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

        matched = np.mean([angle(means[name], sums[name]) for name in means])
        others = np.mean([angle(means[a], sums[b]) for a in means for b in means if a != b])
        scales = [means[name] @ sums[name] / (sums[name] @ sums[name]) for name in means]
        within, between = np.zeros((6, 6)), np.zeros((6, 6))
        center = np.mean([own[[other == name for other in names]].mean(0) for name in means], axis=0)
        for name in means:
            group = own[[other == name for other in names]]
            deviations = group - group.mean(0)
            within += deviations.T @ deviations / len(own)
            between += np.outer(group.mean(0) - center, group.mean(0) - center) / len(means)
        nc1 = np.trace(within) / np.trace(between)
        assert part.sets == len(means) and part.samples == len(own)
        assert part.angle == pytest.approx(matched) and part.angle_ratio == pytest.approx(matched / others)
        assert part.scale_spread == pytest.approx(np.std(scales) / np.mean(scales))
        assert part.nc1 == pytest.approx(nc1, rel=1e-6)


@pytest.mark.parametrize("variant", [pytest.param("sum", marks=pytest.mark.slow), "mean"])
def test_free_features_collapse_to_tag_wise_averages(variant):
    """Li et al.: at the global optimum single labels form a simplex ETF, and every set's mean is a scaled sum."""
    torch.manual_seed(0)
    sets = all_sets().repeat_interleave(3, dim=0)
    features = torch.randn(len(sets), 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(CLASSES, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    settings = {"max_iter": 2000, "tolerance_grad": 1e-9, "tolerance_change": 0, "history_size": 50}
    optimizer = torch.optim.LBFGS([features, weight, bias], line_search_fn="strong_wolfe", **settings)

    def objective():
        optimizer.zero_grad()
        decay = 1e-3 * (weight.square().sum() + features.square().sum() / len(sets) * CLASSES + bias.square().sum())
        value = pick_all_label(features @ weight.T + bias, sets, variant=variant) + decay
        value.backward()
        return value

    optimizer.step(objective)
    report = measure_multilabel(features.detach(), sets, weight=weight.detach(), bias=bias.detach())
    single = report.single
    assert max(single.nc1_pinv, single.nc2_etf_means, single.nc2_etf, single.nc3_duality) < 1e-3
    for part in report.by_multiplicity:
        assert part.nc1 < 1e-3
        if part.labels > 1:
            assert part.angle_ratio < 0.02 and part.scale_spread < 1e-3


def test_a_label_that_is_never_alone_and_a_single_set():
    tags = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]]
    pair = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    means = torch.tensor([[1.0, 0.2], [0.3, 1.0], [0.5, 0.5]], dtype=torch.float64)
    report = measure_multilabel(torch.cat([tags, pair]) @ means, torch.cat([tags, pair]))
    two = report.by_multiplicity[1]
    assert two.sets == 2 and two.angle_ratio is None  # of the two only one has means for all its labels


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[0, 1], [0, 0]], "an image without a label"),
        ([[1, 1], [1, 1]], "No image has one label alone"),
        ([[2, 0], [0, 1]], "0 and 1 alone"),
        ([[1, 0]], r"shape \(2, K\)"),
    ],
)
def test_what_cannot_be_measured_is_one_line(sets, message):
    with pytest.raises(UserError, match=message):
        measure_multilabel(torch.randn(2, 3), torch.tensor(sets))
