from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.detection.detectors.multi_layer_mahalanobis import spatial_mean
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, agreement_test, captured, fitted, peer, tiny

STAGES = {"tiny": ("stage1", "stage2"), "residual": ("narrow", "last")}
MODELS = {}


def mean_of(problem, layer, image):
    values = captured(problem.network, layer, image)
    return (values if values.ndim == 1 else values.flatten(1).mean(dim=1)).numpy()


def model_of(problem, layer):
    """Class means and precision of a layer."""
    if (problem.name, layer) not in MODELS:
        rows = np.stack([mean_of(problem, layer, image) for image in problem.images])
        labels = problem.labels.numpy()
        means = {c: rows[labels == c].mean(axis=0) for c in np.unique(labels)}
        scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(rows, labels, strict=True))
        MODELS[problem.name, layer] = means, np.linalg.pinv(scatter / len(rows), rcond=1e-12, hermitian=True)
    return MODELS[problem.name, layer]


def moved_image(problem, layer, image, epsilon, std):
    """The image after a step down the gradient of the squared distance to its nearest class mean."""
    means, precision = model_of(problem, layer)
    value = mean_of(problem, layer, image)
    nearest = min(means.values(), key=lambda mean: (value - mean) @ precision @ (value - mean))
    kept = []
    handle = problem.network.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2][0]))
    leaf = image.clone().requires_grad_()
    problem.network(leaf[None])
    handle.remove()
    offset = (kept[-1] if kept[-1].ndim == 1 else kept[-1].mean(dim=(1, 2))) - torch.from_numpy(nearest)
    (gradient,) = torch.autograd.grad(offset @ torch.from_numpy(precision) @ offset, leaf)
    return image - epsilon * gradient.sign() / (1 if std is None else torch.tensor(std).reshape(-1, 1, 1))


def oracle(problem, image, layers=None, weights=None, epsilon=0.0, std=None):
    layers = layers or STAGES[problem.name]
    total = 0.0
    for layer, weight in zip(layers, weights or [1.0] * len(layers), strict=True):
        means, precision = model_of(problem, layer)
        seen = moved_image(problem, layer, image, epsilon, std) if epsilon else image
        value = mean_of(problem, layer, seen)
        total -= weight * min((value - mean) @ precision @ (value - mean) for mean in means.values())
    return total


test_agreement = agreement_test(
    "multi_layer_mahalanobis",
    oracle,
    {},
    {"weights": (0.5, 3.0)},
    {"epsilon": 0.01},
    {"epsilon": 0.02, "std": (0.2, 0.5, 1.0)},
    tolerance=1e-6,
)


def test_the_step_raises_the_score_of_one_layer():
    problem = PROBLEMS[0]
    still, moved = (
        fitted("multi_layer_mahalanobis", problem, layers=("stage2",), epsilon=epsilon).score(problem.queries)
        for epsilon in (0.0, 1e-4)
    )
    assert (moved > still).all()


def test_as_pytorch_ood():
    # Theirs works in float32, sums over train samples instead of averaging, halves the distance and adds 1e-6 to the
    # diagonal.
    problem = tiny()
    narrow = copy.deepcopy(problem.network).float()
    theirs = peer("MultiMahalanobis")([narrow.stage1, narrow.stage2], alpha=[0.3, 2.0])
    with torch.no_grad():
        maps = [narrow.stage1(problem.images.float())]
        maps.append(narrow.stage2(maps[0]))
        theirs.fit_structured([part.mean(dim=(2, 3)) for part in maps], problem.labels)
        outlier = theirs.predict(problem.queries.float())
    ours = fitted("multi_layer_mahalanobis", problem, weights=(0.3, 2.0)).score(problem.queries)
    np.testing.assert_allclose(ours, -2 * len(problem.images) * outlier, rtol=1e-2)


def test_one_layer_of_vectors_is_the_feature_detector():
    problem = PROBLEMS[0]
    with torch.no_grad():
        train, queries = (problem.network.features(images) for images in (problem.images, problem.queries))
    expected = create_detector("mahalanobis").fit(train, problem.labels).score(queries)
    found = fitted("multi_layer_mahalanobis", problem, layers=("dropout",)).score(problem.queries)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_shapes_that_have_a_mean():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert spatial_mean(maps).tolist() == [[5.5, 17.5]]
    assert spatial_mean(maps[0]).tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    assert spatial_mean(maps[0, 0]).tolist() == maps[0, 0].tolist()
    with pytest.raises(UserError, match=r"A layer gave \(1, 1, 2, 3, 4\)"):
        spatial_mean(maps[None])


def test_tokens_can_be_named():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 3))
    images, labels = torch.randn(30, 3, 2, 2), torch.arange(30) % 3
    detector = create_detector("multi_layer_mahalanobis", layers=("1",)).fit(network, [(images, labels)])
    assert detector.means_[0].shape == (6,)
    # Means of four values each, mapped to six: the covariance has rank four.
    assert detector.whitenings_[0].shape == (6, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weights": (1.0,)}, "there are 1 weights for 2 layers"),
        ({"weights": ()}, "weights must be a tuple of numbers or None"),
        ({"epsilon": -1.0}, "epsilon must be a number of at least 0"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        fitted("multi_layer_mahalanobis", PROBLEMS[0], **parameters)
