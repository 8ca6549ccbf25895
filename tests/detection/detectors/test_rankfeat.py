from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from ood_nc.detection import create_detector
from ood_nc.detection.detectors.rankfeat import without_first_component
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, agreement_test, fitted, logits_of, peer

STAGES = {"tiny": ("stage1", "stage2"), "residual": ("narrow", "last")}


def deflated(map_):
    """(C, H, W) without its first singular component."""
    matrix = map_.detach().numpy().reshape(len(map_), -1)
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    return torch.from_numpy((matrix - singular[0] * np.outer(left[:, 0], right[0])).reshape(map_.shape))


def oracle(problem, image, layers=None, temperature=1.0):
    total = []
    for layer in layers or STAGES[problem.name]:
        handle = problem.network.get_submodule(layer).register_forward_hook(lambda *a: deflated(a[2][0])[None])
        total.append(logits_of(problem.network, image))
        handle.remove()
    return temperature * logsumexp(np.mean(total, axis=0) / temperature)


test_agreement = agreement_test("rankfeat", oracle, {}, {"temperature": 3.0}, tolerance=1e-8)


def test_only_the_last_two_stages_count_by_default():
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(3)), nn.Flatten(), nn.Linear(12, 2))
    images = torch.randn(3, 3, 16, 16)
    named = create_detector("rankfeat", layers=("1", "2")).fit(deep).score(images)
    assert torch.equal(create_detector("rankfeat").fit(deep).score(images), named)


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    network = problem.network
    head = nn.Sequential(network.pool, nn.Flatten(), network.head)
    theirs = peer("RankFeat")(nn.Sequential(network.stage1, network.stage2), head)
    ours = fitted("rankfeat", problem, layers=("stage2",))
    np.testing.assert_allclose(ours.score(problem.queries), -theirs.predict(problem.queries), rtol=1e-9)


@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (4, 20, 2, 3), (4, 9, 5), (4, 5, 9)])
def test_wide_and_tall_matrices(shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.stack([deflated(map_) for map_ in maps])
    np.testing.assert_allclose(without_first_component(maps), expected, atol=1e-12)


def test_a_map_of_rank_one_leaves_nothing():
    maps = torch.ones(1, 4, 1, 1, dtype=torch.float64).expand(2, 4, 3, 3)
    np.testing.assert_allclose(without_first_component(maps), torch.zeros(2, 4, 3, 3), atol=1e-12)
    assert (without_first_component(torch.zeros(2, 4, 3, 3)) == 0).all()


def test_vectors_have_no_components():
    with pytest.raises(UserError, match=r"needs maps \(B, C, H, W\) or tokens \(B, T, d\), a layer gave \(12, 4\)"):
        fitted("rankfeat", PROBLEMS[0], layers=("head",)).score(PROBLEMS[0].queries)


@pytest.mark.parametrize("parameters", [{"layers": ()}, {"layers": "stage1"}, {"layers": ("a", "a")}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'rankfeat': layers must be a tuple of layer names, each once, or None"):
        create_detector("rankfeat", **parameters)
