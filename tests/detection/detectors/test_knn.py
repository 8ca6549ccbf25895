from __future__ import annotations

import copy
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from ood_nc.detection import create_detector
from ood_nc.errors import MissingPackageError, UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def kth_distance(train, queries, k, normalize=True):
    """One difference at a time, in float64."""
    train, queries = (np.asarray(rows, dtype=np.float64) for rows in (train, queries))
    if normalize:
        train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    return np.array([-np.sort(np.linalg.norm(train - q, axis=1))[k - 1] for q in queries])


def oracle(problem, k=None, normalize=True):
    return kth_distance(problem.features, problem.queries, k or min(50, len(problem.features)), normalize)


test_agreement = agreement_test("knn", oracle, {}, {"k": 1}, {"k": 7, "normalize": False})


def test_as_pytorch_ood_and_scikit_learn():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("KNN")(None, k=10).fit_features(data["features"], data["labels"]).predict_features(data["queries"])
    ours = scores_of(fitted("knn", problem, k=10), problem)
    np.testing.assert_allclose(ours, -theirs, rtol=1e-5)
    search = NearestNeighbors(n_neighbors=10, algorithm="kd_tree").fit(problem.features)
    expected = search.kneighbors(problem.queries)[0][:, -1]
    np.testing.assert_allclose(scores_of(fitted("knn", problem, k=10, normalize=False), problem), -expected, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_collapsed_tap_against_float64(spread, offset):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(8, 64))
    train = (means[np.arange(600) % 8] + spread * rng.normal(size=(600, 64)) + offset).astype(np.float32)
    queries = (means[np.arange(80) % 8] + spread * rng.normal(size=(80, 64)) + offset).astype(np.float32)
    expected = kth_distance(train, queries, 20)
    scores = create_detector("knn", k=20).fit(train).score(queries).numpy()
    # In float32 the distances keep fewer values than there are neighbours; ours keep the ranking.
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert spearmanr(scores, expected).statistic >= 0.99999
    if spread <= 1e-4:
        unit_train, unit_queries = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (train, queries))
        index = faiss.IndexFlatIP(64)
        index.add(unit_train)
        assert spearmanr(index.search(unit_queries, 20)[0][:, -1], expected).statistic < 0.9


def test_offset_and_batch_size_do_not_matter():
    # Field case 17.
    rng = np.random.default_rng(0)
    bank = (rng.normal(size=(20000, 64)) + 1000).astype(np.float32)
    queries = (rng.normal(size=(2000, 64)) + 1000).astype(np.float32)
    detector = create_detector("knn", k=5, normalize=False).fit(bank)
    scores = detector.score(queries[:200]).numpy()
    np.testing.assert_allclose(scores[:50], kth_distance(bank, queries[:50], 5, normalize=False), rtol=1e-5)
    np.testing.assert_allclose(scores[:1], detector.score(queries[:1]), rtol=1e-6)
    index = faiss.IndexFlatL2(64)
    index.add(bank)
    plain = index.search(queries, 5)[0][:50, -1]
    assert np.abs(plain / kth_distance(bank, queries[:50], 5, normalize=False) ** 2 - 1).max() > 0.1


def test_zero_features():
    # Field case 15: distance 1 to every unit vector, counted in a warning.
    rng = np.random.default_rng(0)
    detector = create_detector("knn").fit(rng.normal(size=(100, 8)).astype(np.float32))
    with pytest.warns(UserWarning, match="1 of 2 features are all zero"):
        scores = detector.score(np.stack([np.zeros(8), np.ones(8)]))
    assert scores[0].item() == pytest.approx(-1, abs=1e-12)


def test_k_larger_than_the_bank():
    # Field case 16.
    rows = np.eye(3)
    with pytest.raises(ValueError, match="k = 5 is more than the 3 features of the bank"):
        create_detector("knn", k=5).fit(rows)
    for k in (0, -1, 2.0, True):
        with pytest.raises(UserError, match="k must be a whole number of at least 1 or None"):
            create_detector("knn", k=k)
    assert create_detector("knn").fit(rows).k_ == 3


def test_copies_and_constant_banks():
    bank = np.ones((20, 4), dtype=np.float32)
    detector = create_detector("knn", k=20).fit(bank)
    np.testing.assert_allclose(detector.score([[1.0, 1, 1, 1], [-1.0, -1, -1, -1]]), [0, -2], atol=1e-12)


def test_deep_copy_shares_nothing_and_needs_no_index():
    problem = PROBLEMS[0]
    detector = fitted("knn", problem)
    twin = copy.deepcopy(detector)
    expected = scores_of(detector, problem)
    detector.bank_.zero_()
    np.testing.assert_array_equal(scores_of(twin, problem), expected)


def test_float64_bank_keeps_its_digits():
    rng = np.random.default_rng(0)
    bank = 1 + 1e-9 * rng.normal(size=(100, 4))
    expected = kth_distance(bank, bank[:10], 5, normalize=False)
    np.testing.assert_allclose(
        create_detector("knn", k=5, normalize=False).fit(bank).score(bank[:10]), expected, rtol=1e-5
    )


def test_without_faiss(monkeypatch):
    # Field case 22: only k-NN asks for faiss.
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert create_detector("msp").score(None, logits=torch.ones(1, 2)).item() == pytest.approx(0.5)
    with pytest.raises(MissingPackageError, match="faiss-cpu") as caught:
        create_detector("knn").fit(np.eye(3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["import faiss, torch, ood_nc", "import torch, ood_nc, faiss"])
def test_import_orders(order):
    # Field case 22: the two bring their own OpenMP runtimes.
    code = (
        f"{order}\nimport numpy as np\nfrom ood_nc.detection import create_detector\n"
        "rows = np.random.default_rng(0).normal(size=(10000, 16)).astype('float32')\n"
        "print(float(create_detector('knn').fit(rows).score(rows[:50]).mean()) < 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
