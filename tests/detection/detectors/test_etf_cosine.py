from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import null_space, orthogonal_procrustes
from sklearn.metrics.pairwise import cosine_similarity

from ood_nc.detection import MissingInputError, create_detector
from ood_nc.detection.detectors.etf_cosine import nearest_simplex_etf
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test


def oracle(problem, vertices="means"):
    train, labels, queries = problem.exact()
    if vertices == "head":
        return cosine_similarity(queries, problem.weight.astype(np.float64)).max(axis=1)
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    centered = means - means.mean(axis=0)
    classes, dim = centered.shape
    # Any simplex ETF in d dimensions, rotated onto the means by SciPy's Procrustes.
    frame = np.zeros((classes, dim))
    frame[:, : classes - 1] = null_space(np.ones((1, classes)))
    rotation, _ = orthogonal_procrustes(frame, centered)
    return cosine_similarity(queries - means.mean(axis=0), frame @ rotation).max(axis=1)


test_agreement = agreement_test("etf_cosine", oracle, {}, {"vertices": "head"})


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (5, 4), (5, 5), (5, 8), (40, 64)])
def test_vertices_form_a_simplex_etf(classes, dim):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(classes, dim, generator=rng, dtype=torch.float64)
    vertices = nearest_simplex_etf(rows - rows.mean(dim=0))
    wanted = (classes * torch.eye(classes, dtype=torch.float64) - 1) / (classes - 1)
    torch.testing.assert_close(vertices @ vertices.T, wanted, atol=1e-9, rtol=0)


def test_a_simplex_etf_is_its_own_nearest():
    rows = np.eye(4) - 0.25
    detector = create_detector("etf_cosine").fit(rows + 7, [0, 1, 2, 3])
    np.testing.assert_allclose(detector.score(rows + 7), 1)
    np.testing.assert_allclose(detector.score(7 - rows), 1 / 3)


def test_means_of_low_rank_still_give_a_frame():
    rows = torch.zeros(4, 6, dtype=torch.float64)
    rows[:, 0] = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    vertices = nearest_simplex_etf(rows)
    torch.testing.assert_close(
        vertices @ vertices.T, (4 * torch.eye(4, dtype=torch.float64) - 1) / 3, atol=1e-9, rtol=0
    )


def test_too_few_dimensions():
    with pytest.raises(UserError, match="5 classes have no simplex ETF in 3 dimensions"):
        create_detector("etf_cosine").fit(np.random.default_rng(0).normal(size=(5, 3)), np.arange(5))


def test_fixed_head_needs_a_head():
    with pytest.raises(MissingInputError, match="lacks head"):
        create_detector("etf_cosine", vertices="head").fit(PROBLEMS[0].features, PROBLEMS[0].labels)
    with pytest.raises(UserError, match="vertices must be one of 'means', 'head'"):
        create_detector("etf_cosine", vertices="paper")
