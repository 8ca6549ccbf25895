from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ood_nc.detection import create_detector
from ood_nc.detection.adapters import PytorchOodDetector, SklearnDetector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, fitted, peer_tensors, scores_of

PROBLEM = PROBLEMS[0]


@pytest.mark.parametrize("name", ["mahalanobis", "vim", "energy", "knn"])
def test_pytorch_ood_protocol(name):
    data = peer_tensors(PROBLEM)
    adapter = PytorchOodDetector(name, head=PROBLEM.head)
    assert adapter.fit_features(data["features"], data["labels"]) is adapter
    expected = -scores_of(fitted(name, PROBLEM), PROBLEM)
    np.testing.assert_allclose(adapter.predict_features(data["queries"]), expected, rtol=1e-6, atol=1e-5)


def test_pytorch_ood_leaves_out_ood_samples():
    data = peer_tensors(PROBLEM)
    spoilt = torch.cat([data["features"], 1000 * torch.ones(5, 16)])
    labels = torch.cat([data["labels"], torch.full((5,), -1)])
    scores = PytorchOodDetector("mahalanobis").fit_features(spoilt, labels).predict_features(data["queries"])
    np.testing.assert_allclose(scores, -scores_of(fitted("mahalanobis", PROBLEM), PROBLEM), rtol=1e-9)


def test_pytorch_ood_metrics_take_it():
    metrics = pytest.importorskip("pytorch_ood.metrics")
    data = peer_tensors(PROBLEM)
    adapter = PytorchOodDetector("mahalanobis").fit_features(data["features"], data["labels"])
    found = metrics.OODMetrics()
    found.update(adapter.predict_features(data["queries"]), torch.tensor([0] * 40 + [-1] * 40))
    scores = -adapter.predict_features(data["queries"])
    from ood_nc.scores import detection_metrics

    ours = detection_metrics(scores[:40], scores[40:])
    theirs = found.compute()
    assert ours["auroc"] == pytest.approx(float(theirs["AUROC"]), abs=1e-6)
    assert ours["fpr95_ood_positive"] == pytest.approx(float(theirs["FPR95TPR"]), abs=1e-6)


def test_scikit_learn_protocol():
    estimator = SklearnDetector("mahalanobis", tpr=0.9)
    with pytest.raises(NotFittedError):
        estimator.predict(PROBLEM.queries)
    estimator = clone(estimator).fit(PROBLEM.features, PROBLEM.labels)
    scores = estimator.score_samples(PROBLEM.queries)
    np.testing.assert_array_equal(estimator.decision_function(PROBLEM.queries), scores - estimator.offset_)
    np.testing.assert_array_equal(estimator.predict(PROBLEM.queries), np.where(scores >= estimator.offset_, 1, -1))
    assert (estimator.predict(PROBLEM.queries[40:]) == -1).all()
    rng = np.random.default_rng(0)
    means = np.stack([PROBLEM.features[PROBLEM.labels == c].mean(axis=0) for c in range(5)])
    fresh = means[np.arange(4000) % 5] + rng.normal(size=(4000, 16))
    # Chosen on 60 held-out samples: Beta(6, 55) distributed.
    assert 0.8 < np.mean(estimator.predict(fresh) == 1) < 0.98


def test_scikit_learn_pipeline_instance_and_logits():
    pipeline = make_pipeline(StandardScaler(), SklearnDetector(create_detector("knn", k=5)))
    assert set(pipeline.fit(PROBLEM.features).predict(PROBLEM.queries)) <= {-1, 1}
    assert pipeline[-1].fit_predict(PROBLEM.features).shape == (300,)
    estimator = SklearnDetector("energy").fit(PROBLEM.logits(PROBLEM.features))
    assert estimator.score_samples(PROBLEM.logits(PROBLEM.queries)).shape == (80,)
    estimator = SklearnDetector("vim", head=PROBLEM.head).fit(PROBLEM.features)
    assert estimator.n_features_in_ == 16


@pytest.mark.parametrize("kind", ["with gradients", "bfloat16"])
def test_scikit_learn_takes_what_a_network_gives(kind):
    rows = torch.from_numpy(PROBLEM.features).float()
    given = rows.requires_grad_() if kind == "with gradients" else rows.bfloat16()
    detector = SklearnDetector("mahalanobis").fit(given, PROBLEM.labels)
    expected = SklearnDetector("mahalanobis").fit(given.detach().float().numpy(), PROBLEM.labels)
    np.testing.assert_allclose(detector.score_samples(given[:9]), expected.score_samples(given[:9]), rtol=1e-4)


def test_scikit_learn_hands_labels_on():
    detector = SklearnDetector("mahalanobis")
    found = detector.fit_predict(PROBLEM.features, PROBLEM.labels)
    np.testing.assert_array_equal(found, detector.predict(PROBLEM.features))


def test_input_detectors_are_refused_by_name():
    for adapter in (PytorchOodDetector, lambda name: SklearnDetector(name).fit(PROBLEM.features)):
        with pytest.raises(UserError, match="'odin' reads images through the network, not features"):
            adapter("odin")


def test_held_out_share_must_leave_both_sides():
    with pytest.raises(UserError, match="held_out = 0 of 300 samples"):
        SklearnDetector(held_out=0).fit(PROBLEM.features)
