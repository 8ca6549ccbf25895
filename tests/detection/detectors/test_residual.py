from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ood_nc.detection import MissingInputError, TapStatistics, create_detector
from ood_nc.detection.kit import linalg
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, dim=None, explained_variance=None):
    train, _, queries = problem.exact()
    origin = -np.linalg.pinv(problem.weight.astype(np.float64)) @ problem.bias.astype(np.float64)
    # The right singular vectors of the train rows around the origin, instead of an eigen-decomposition.
    _, singular, directions = np.linalg.svd(train - origin, full_matrices=True)
    if explained_variance is not None:
        share = np.cumsum(singular**2) / np.sum(singular**2)
        dim = int(np.argmax(share >= explained_variance)) + 1
    elif dim is None:
        dim = train.shape[1] // 2
    return np.array([-np.linalg.norm((query - origin) @ directions[dim:].T) for query in queries])


test_agreement = agreement_test("residual", oracle, {}, {"dim": 3}, {"explained_variance": 0.9})


def test_as_the_residual_of_pytorch_ood_vim():
    # Their ViM is alpha |r| - energy: without the energy, and over its alpha, it is the residual.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("ViM")(None, d=5, w=data["weight"], b=data["bias"]).fit_features(data["features"], data["labels"])
    energy = data["query_logits"].logsumexp(dim=1)
    expected = -(theirs.predict_features(data["queries"]) + energy) / theirs.alpha
    np.testing.assert_allclose(scores_of(fitted("residual", problem, dim=5), problem), expected, rtol=1e-4, atol=1e-4)


def test_as_pca_when_head_zero_is_the_mean():
    train, _, queries = PROBLEMS[0].exact()
    pca = PCA(n_components=4).fit(train)
    rebuilt = pca.inverse_transform(pca.transform(queries))
    weight = np.eye(train.shape[1])
    detector = create_detector("residual", dim=4).fit(train, head=(weight, -weight @ train.mean(axis=0)))
    np.testing.assert_allclose(detector.score(queries), -np.linalg.norm(queries - rebuilt, axis=1), rtol=1e-6)


def test_no_bias_is_a_zero_bias():
    # Field case 26.
    problem = PROBLEMS[0]
    scores = [
        create_detector("residual").fit(problem.features, head=(problem.weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(len(problem.weight), dtype=np.float32))
    ]
    assert (scores[0] == scores[1]).all()
    with pytest.raises(MissingInputError, match="'residual' lacks head in fit; it requires features, head"):
        create_detector("residual").fit(problem.features)


def test_fitted_in_two_chunks(monkeypatch):
    # Field case 27.
    problem = PROBLEMS[1]
    expected = scores_of(fitted("residual", problem), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", 150)
    np.testing.assert_allclose(scores_of(fitted("residual", problem), problem), expected, rtol=1e-6)


def test_zero_column_changes_no_score():
    problem = PROBLEMS[0]

    def widen(rows):
        return np.column_stack([rows, np.zeros(len(rows), dtype=rows.dtype)])

    train, _, queries = problem.exact()
    expected = create_detector("residual", dim=8).fit(train, head=problem.head).score(queries)
    wider = create_detector("residual", dim=8).fit(widen(train), head=(widen(problem.weight), problem.bias))
    np.testing.assert_allclose(wider.score(widen(queries)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dim": -1}, "dim must be a whole number"),
        ({"explained_variance": 1.0}, "strictly between 0 and 1"),
        ({"dim": 3, "explained_variance": 0.9}, "not both"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        create_detector("residual", **parameters)


def test_dim_that_leaves_nothing():
    with pytest.raises(UserError, match="'residual': dim 16 leaves nothing of 16 features"):
        fitted("residual", PROBLEMS[0], dim=16)


def test_vim_at_the_same_tap_reads_the_same_decomposition(monkeypatch):
    problem, decomposed = PROBLEMS[0], []
    eigen = linalg.eigen
    monkeypatch.setattr(linalg, "eigen", lambda matrix: decomposed.append(len(matrix)) or eigen(matrix))
    rows, labels, _ = problem.exact()
    train = TapStatistics(rows, labels, head=(problem.weight, problem.bias))
    together = [create_detector(name).fit(train).score(rows[:5]) for name in ("residual", "vim")]
    assert len(decomposed) == 1
    for name, scores in zip(("residual", "vim"), together, strict=True):
        alone = create_detector(name).fit(rows, labels, head=(problem.weight, problem.bias)).score(rows[:5])
        assert scores.tolist() == alone.tolist()
