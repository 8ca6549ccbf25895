from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.decomposition import PCA

from ood_nc.detection import MissingInputError, create_detector
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
    outside = directions[dim:]
    residual = [np.linalg.norm((rows - origin) @ outside.T, axis=1) for rows in (train, queries)]
    alpha = problem.logits(problem.features).max(axis=1).mean() / residual[0].mean()
    return logsumexp(problem.logits(problem.queries), axis=1) - alpha * residual[1]


test_agreement = agreement_test("vim", oracle, {}, {"dim": 3}, {"explained_variance": 0.9})


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("ViM")(None, d=5, w=data["weight"], b=data["bias"]).fit_features(data["features"], data["labels"])
    ours = fitted("vim", problem, dim=5)
    np.testing.assert_allclose(
        scores_of(ours, problem), -theirs.predict_features(data["queries"]), rtol=1e-4, atol=1e-4
    )
    assert ours.alpha_ == pytest.approx(theirs.alpha, rel=1e-5)


def test_no_bias_is_a_zero_bias_and_the_origin_is_zero():
    problem = PROBLEMS[0]
    weight = problem.weight
    scores = [
        create_detector("vim").fit(problem.features, head=(weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(len(weight), dtype=np.float32))
    ]
    assert (scores[0] == scores[1]).all()
    assert (create_detector("vim").fit(problem.features, head=(weight, None)).origin_ == 0).all()


def test_without_a_head():
    problem = PROBLEMS[0]
    with pytest.raises(MissingInputError, match=r"'vim' lacks head in fit; it requires features, head, logits\."):
        create_detector("vim").fit(problem.features, logits=problem.logits(problem.features))


def test_default_dim_follows_the_width():
    rng = np.random.default_rng(0)
    for width, outside in ((768, 256), (40, 20)):
        head = (rng.normal(size=(3, width)), None)
        detector = create_detector("vim").fit(rng.normal(size=(8, width)), head=head)
        assert detector.basis_.shape == (width, outside)


def test_dim_that_leaves_nothing():
    with pytest.raises(UserError, match="dim 16 leaves nothing of 16 features"):
        fitted("vim", PROBLEMS[0], dim=16)
    with pytest.raises(UserError, match="dim or explained_variance, not both"):
        create_detector("vim", dim=3, explained_variance=0.9)


@pytest.mark.parametrize("parameters", [{"dim": -1}, {"dim": 2.5}, {"explained_variance": 1.0}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'vim': "):
        create_detector("vim", **parameters)


def test_labels_are_not_needed_and_change_nothing():
    # With labels the covariance is within plus between classes, without it is summed directly.
    problem = PROBLEMS[1]
    train, labels, queries = problem.exact()
    a = create_detector("vim").fit(train, labels, head=problem.head).score(queries)
    b = create_detector("vim").fit(train, head=problem.head).score(queries)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_as_pca_when_head_zero_is_the_mean():
    # With the origin at the mean the principal subspace is scikit-learn's PCA.
    problem = PROBLEMS[0]
    train, _, queries = problem.exact()
    pca = PCA(n_components=4).fit(train)
    rebuilt = pca.inverse_transform(pca.transform(queries))
    expected = np.linalg.norm(queries - rebuilt, axis=1)
    weight = np.eye(train.shape[1])
    detector = create_detector("vim", dim=4).fit(train, head=(weight, -weight @ train.mean(axis=0)))
    energy = logsumexp(queries @ weight.T - weight @ train.mean(axis=0), axis=1)
    np.testing.assert_allclose((energy - detector.score(queries).numpy()) / detector.alpha_, expected, rtol=1e-6)
