from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, agreement_test, captured, fitted, logits_of, peer, softmax

STAGES = {"tiny": ("stage1", "stage2"), "residual": ("narrow", "last")}
RANGES = {}


def statistics(problem, layer, image, powers):
    """Row sums of the Gram matrix of each power (powers, C), by the definition."""
    map_ = captured(problem.network, layer, image).numpy()
    rows = map_.reshape(len(map_), -1)
    found = np.zeros((len(powers), len(rows)))
    for index, power in enumerate(powers):
        for i in range(len(rows)):
            total = sum(np.dot(rows[i] ** power, rows[j] ** power) for j in range(len(rows)))
            found[index, i] = np.sign(total) * abs(total) ** (1 / power)
    return found


def deviation(values, lowest, highest):
    total = 0.0
    for value, low, high in zip(values.ravel(), lowest.ravel(), highest.ravel(), strict=True):
        if value < low:
            total += (low - value) / (abs(low) + 1e-6)
        if value > high:
            total += (value - high) / (abs(high) + 1e-6)
    return total


def confidence(problem, image, divide):
    return softmax(logits_of(problem.network, image)).max() if divide else 1.0


def ranges(problem, layer, powers, held_out, divide):
    """Smallest and largest values by predicted class, and the mean deviation of the held-out images."""
    key = problem.name, layer, powers, held_out, divide
    if key not in RANGES:
        stride, by_class = round(1 / held_out), {}
        for image in problem.images:
            by_class.setdefault(int(logits_of(problem.network, image).argmax()), []).append(
                (statistics(problem, layer, image, powers), confidence(problem, image, divide))
            )
        bounds, deviations = {}, []
        for label, rows in by_class.items():
            kept = np.stack([row for index, (row, _) in enumerate(rows, start=1) if index % stride])
            bounds[label] = kept.min(axis=0), kept.max(axis=0)
        for label, rows in by_class.items():
            deviations += [deviation(row, *bounds[label]) / sure for row, sure in rows[stride - 1 :: stride]]
        RANGES[key] = bounds, np.mean(deviations)
    return RANGES[key]


def oracle(problem, image, layers=None, powers=(1, 2, 3, 4, 5), held_out=0.1, divide_by_confidence=True):
    label = int(logits_of(problem.network, image).argmax())
    total = 0.0
    for layer in layers or STAGES[problem.name]:
        bounds, expected = ranges(problem, layer, powers, held_out, divide_by_confidence)
        total -= deviation(statistics(problem, layer, image, powers), *bounds[label]) / expected
    return total / confidence(problem, image, divide_by_confidence)


test_agreement = agreement_test(
    "gram", oracle, {}, {"powers": (1, 3), "held_out": 0.25, "divide_by_confidence": False}, tolerance=1e-6
)


def test_as_pytorch_ood(monkeypatch):
    # Theirs groups by label, holds out a random tenth of each class and does not divide by the confidence: here the
    # labels are the predictions, and the tenth is ours.
    problem = PROBLEMS[0]
    network = problem.network
    head = nn.Sequential(network.pool, nn.Flatten(), network.head)
    theirs = peer("Gram")(head, [network.stage1, network.stage2], 4, [1, 2, 3, 4, 5])

    def held_out_first(count):
        held = list(range(9, count, 10))
        return torch.tensor(held + [index for index in range(count) if index not in held])

    monkeypatch.setattr(torch, "randperm", held_out_first)
    theirs.fit([(problem.images, problem.labels)])
    ours = fitted("gram", problem, divide_by_confidence=False)
    assert ours.expected_ == pytest.approx(theirs.layer_norm.tolist(), rel=1e-5)
    np.testing.assert_allclose(ours.score(problem.queries), -theirs.predict(problem.queries), rtol=1e-4)


def test_a_class_that_was_never_predicted_has_the_range_of_all():
    problem = PROBLEMS[0]
    detector = fitted("gram", problem)
    known = problem.labels != 2
    partly = create_detector("gram").fit(problem.network, [(problem.images[known], problem.labels[known])])
    assert partly.seen_.tolist() == [True, True, False, True]
    for index in range(2):
        assert torch.equal(partly.lowest_[index][2], detector.lowest_[index][[0, 1, 3]].amin(dim=0))
        assert torch.equal(partly.highest_[index][2], detector.highest_[index][[0, 1, 3]].amax(dim=0))


def test_train_images_that_made_the_ranges_do_not_deviate():
    problem = PROBLEMS[0]
    scores = fitted("gram", problem).score(problem.images).numpy()
    assert (scores[:36] == 0).all()
    assert (scores <= 0).all()


def test_too_few_images_to_hold_any_out():
    problem = PROBLEMS[0]
    detector = create_detector("gram").fit(problem.network, [(problem.images[:8], problem.labels[:8])])
    assert detector.expected_ == [1.0, 1.0]


class Shuffled:
    """Batches in another order each time they are read."""

    def __init__(self, images):
        self.images, self.reads = images, 0

    def __iter__(self):
        self.reads += 1
        return iter(self.images.roll(self.reads, dims=0).split(10))


def test_batches_in_another_order_are_refused():
    with pytest.raises(UserError, match="'gram': batches differ each time they are read; do not shuffle them"):
        create_detector("gram").fit(PROBLEMS[0].network, Shuffled(PROBLEMS[0].images))


def test_tokens_and_vectors():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 3)).double()
    images = torch.randn(30, 3, 2, 2).double()
    detector = create_detector("gram", layers=("1", "3"), powers=(2,)).fit(network, [images])
    with torch.no_grad():
        tokens = network[:2](images[:5])
        vectors = network(images[:5])
    squares = tokens**2
    expected = torch.einsum("bti,btj->bi", squares, squares).sqrt()
    np.testing.assert_allclose(detector._statistics(tokens)[:, 0], expected)
    np.testing.assert_allclose(
        detector._statistics(vectors)[:, 0], vectors.abs() * (vectors**2).sum(dim=1, keepdim=True).sqrt()
    )


@pytest.mark.parametrize("parameters", [{"powers": ()}, {"powers": (0,)}, {"powers": (1, 1)}, {"held_out": 0.0}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'gram': "):
        create_detector("gram", **parameters)
