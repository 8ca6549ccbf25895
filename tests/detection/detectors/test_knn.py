from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from ood_nc.detection import MissingInputError, check_detector, create_detector
from ood_nc.detection.detectors.knn import NearestNeighbors as Knn
from ood_nc.detection.kit.approximate import ApproximateNeighbors
from ood_nc.detection.kit.faiss_backend import SMALLEST_BANK
from ood_nc.detection.kit.parameters import Parameter
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


@pytest.mark.parametrize(
    "order",
    ["import faiss, torch, ood_nc", pytest.param("import torch, ood_nc, faiss", marks=pytest.mark.slow)],
)
def test_import_orders(order):
    # Field case 22: the two bring their own OpenMP runtimes.
    code = (
        f"{order}\nimport numpy as np\nfrom ood_nc.detection import create_detector\n"
        "rows = np.random.default_rng(0).normal(size=(10000, 16)).astype('float32')\n"
        "print(float(create_detector('knn').fit(rows).score(rows[:50]).mean()) < 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def blobs(seed, count, dim=16, classes=10, spread=1.0):
    means = 3 * np.random.default_rng(9).normal(size=(classes, dim))
    labels = np.arange(count) % classes
    rows = means[labels] + spread * np.random.default_rng(seed).normal(size=(count, dim))
    return rows.astype(np.float32), labels


def per_class_oracle(train, labels, queries, k, normalize=True):
    return np.max([kth_distance(train[labels == c], queries, k, normalize) for c in np.unique(labels)], axis=0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_per_class(problem):
    for normalize in (True, False):
        for k in (1, 6):
            found = scores_of(fitted("knn", problem, k=k, per_class=True, normalize=normalize), problem)
            expected = per_class_oracle(problem.features, problem.labels, problem.queries, k, normalize)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_per_class_where_classes_differ():
    # The 12th neighbour within a class lies further off than the 12th of all, and a class of 12 can be asked for it.
    train, labels = blobs(0, 300)
    labels = np.where(np.arange(300) < 12, 99, labels)
    order = np.random.default_rng(0).permutation(300)
    detector = create_detector("knn", k=12, per_class=True).fit(train[order], labels[order])
    queries, _ = blobs(1, 60)
    np.testing.assert_allclose(detector.score(queries), per_class_oracle(train, labels, queries, 12), rtol=1e-5)
    assert (detector.score(queries) <= create_detector("knn", k=12).fit(train).score(queries) + 1e-9).all()
    with pytest.raises(UserError, match="k = 13 is more than the 12 features of class 99; lower k"):
        create_detector("knn", k=13, per_class=True).fit(train, labels)
    assert create_detector("knn", per_class=True).fit(train, labels).k_ == 12


def test_bank_size_draws_rows_of_train():
    train, labels = blobs(0, 300)
    detector = create_detector("knn", k=3, bank_size=100).fit(train, labels)
    rows = {row.tobytes() for row in train}
    bank = [row.tobytes() for row in detector.bank_.numpy()]
    assert len(set(bank)) == 100
    assert set(bank) <= rows
    kept = np.array([i for i, row in enumerate(train) if row.tobytes() in set(bank)])
    np.testing.assert_array_equal(detector.labels_, labels[kept])
    queries, _ = blobs(1, 30)
    np.testing.assert_allclose(detector.score(queries), kth_distance(train[kept], queries, 3), rtol=1e-5)
    again, other = (create_detector("knn", bank_size=100, seed=seed).fit(train).bank_ for seed in (0, 1))
    assert torch.equal(again, detector.bank_)
    assert not torch.equal(other, detector.bank_)
    # Every part of train gets its share: the draw is no prefix.
    assert np.histogram(kept, bins=3, range=(0, 300))[0].min() > 20
    assert torch.equal(create_detector("knn", bank_size=300).fit(train).bank_, torch.from_numpy(train))
    assert len(create_detector("knn", bank_size=1000).fit(train).bank_) == 300
    with pytest.raises(UserError, match="k = 20 is more than the 10 features of the bank"):
        create_detector("knn", k=20, bank_size=10).fit(train)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, [5, 5, 5, 5]), (20, [5, 5, 5, 5]), (4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (30, [5, 9, 8, 8]), (60, None)],
)
def test_balanced_banks(size, expected):
    labels = np.repeat([7, 0, 3, 12], [5, 40, 12, 9])
    rows = np.random.default_rng(0).permutation(66)
    train = np.random.default_rng(1).normal(size=(66, 4))
    detector = create_detector("knn", k=1, balanced=True, bank_size=size).fit(train[rows], labels[rows])
    counts = {int(c): int((detector.labels_ == c).sum()) for c in detector.labels_.unique()}
    if size == 60:
        # The small classes whole, the largest takes the rest.
        assert counts == {7: 5, 0: 34, 3: 12, 12: 9}
    elif size == 30:
        # As equal as 5, 40, 12 and 9 allow: 5 and three times 8, and the one left to the first class with more.
        assert counts == {7: 5, 0: 9, 3: 8, 12: 8}
    elif size == 6:
        assert counts == {0: 2, 3: 2, 7: 1, 12: 1}
    else:
        assert counts == dict(zip([7, 0, 3, 12], expected, strict=True))
    # Labels stay with their rows.
    table = {row.tobytes(): label for row, label in zip(train, labels, strict=True)}
    assert [table[row.tobytes()] for row in detector.bank_.numpy()] == detector.labels_.tolist()
    # Within a class the draw is no prefix either.
    if size is None:
        of_largest = [row.tobytes() for row in train[rows][labels[rows] == 0]]
        places = [of_largest.index(row.tobytes()) for row in detector.bank_[detector.labels_ == 0].numpy()]
        assert max(places) > 10


def test_banks_that_cannot_be():
    train, labels = blobs(0, 300)
    for option in ("balanced", "per_class"):
        with pytest.raises(MissingInputError, match="'knn' lacks labels in fit"):
            create_detector("knn", **{option: True}).fit(train)
    with pytest.raises(UserError, match="bank_size = 4 is less than the 10 classes to balance"):
        create_detector("knn", balanced=True, bank_size=4).fit(train, labels)
    with pytest.raises(UserError, match="leaves a class without features; set balanced"):
        create_detector("knn", per_class=True, bank_size=5, k=1).fit(train, labels)
    for name, value in {"index": "lsh", "bank_size": 0, "balanced": 1, "per_class": None, "seed": -1}.items():
        with pytest.raises(UserError, match=f"'knn': {name} must be"):
            create_detector("knn", **{name: value})


@pytest.mark.parametrize("index", ["ivf", "hnsw", "ivfpq"])
def test_approximate_indexes_rank_as_the_exact_search(index):
    train, labels = blobs(0, 10_000)
    queries = np.concatenate([blobs(1, 200)[0], 2 * np.random.default_rng(2).normal(size=(200, 16)).astype(np.float32)])
    exact = create_detector("knn").fit(train, labels).score(queries).numpy()
    detector = create_detector("knn", index=index).fit(train, labels)
    assert isinstance(detector._banks[0], ApproximateNeighbors)
    scores = detector.score(queries).numpy()
    # For ID and OOD alike; between them any index looks good.
    assert spearmanr(scores[:200], exact[:200]).statistic >= 0.99
    assert spearmanr(scores[200:], exact[200:]).statistic >= 0.98
    assert (scores <= exact + 1e-6).all()
    np.testing.assert_allclose(detector.score(queries[:3]), scores[:3], rtol=1e-6)
    # The same bank and the same seed give the same index, and a file holds it.
    again = create_detector("knn", index=index).fit(train, labels)
    np.testing.assert_array_equal(again.score(queries), scores)
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["fitted"]["index_"].dtype == torch.uint8
    loaded = create_detector("knn").load_state_dict(state)
    # A loaded detector can be saved again before and after it has scored, and holds the index once.
    for _ in range(2):
        assert torch.equal(loaded.state_dict()["fitted"]["index_"], state["fitted"]["index_"])
        np.testing.assert_array_equal(loaded.score(queries), scores)
        assert not hasattr(loaded, "index_")
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(detector))):
        np.testing.assert_array_equal(twin.score(queries), scores)


@pytest.mark.parametrize("index", ["ivf", "ivfpq"])
def test_a_state_of_an_earlier_version_is_tuned_where_it_is_loaded(index):
    train, labels = blobs(0, 10_000)
    queries, _ = blobs(1, 100)
    state = create_detector("knn", index=index).fit(train, labels).state_dict()
    del state["fitted"]["index_counts_"], state["parameters"]["recall"]
    if index == "ivfpq":  # codes of eight bits then
        unit = train / np.linalg.norm(train, axis=1, keepdims=True)
        unit = (unit - unit.mean(axis=0)).astype(np.float32)
        old = faiss.IndexIVFPQ(faiss.IndexFlatL2(16), 16, 100, 4, 8)
        old.train(unit)
        old.add(unit)
        stored = torch.from_numpy(faiss.serialize_index(old))
        state["fitted"] |= {"index_": stored, "index_sizes_": torch.tensor([len(stored)])}
    scores = create_detector("knn").load_state_dict(state).score(queries).numpy()
    exact = create_detector("knn").fit(train, labels).score(queries).numpy()
    assert spearmanr(scores, exact).statistic > 0.99


@pytest.mark.parametrize("index", ["ivf", "hnsw", "ivfpq"])
def test_small_banks_are_searched_exactly_with_a_note(index):
    train, labels = blobs(0, 999)
    with pytest.warns(UserWarning, match=f"{index!r} takes {SMALLEST_BANK[index]} features or more; 1 of 1 banks"):
        detector = create_detector("knn", index=index).fit(train, labels)
    queries, _ = blobs(1, 30)
    np.testing.assert_array_equal(detector.score(queries), create_detector("knn").fit(train, labels).score(queries))
    assert "index_" not in detector.state_dict()["fitted"]


def test_large_and_small_classes_in_one_detector():
    train, labels = blobs(0, 1300, classes=2)
    labels = np.where(np.arange(1300) < 1100, 1, labels * 5)
    with pytest.warns(UserWarning, match="2 of 3 banks hold fewer"):
        detector = create_detector("knn", k=20, index="ivf", per_class=True).fit(train, labels)
    kinds = [bank.kind for bank in detector._banks]
    assert kinds == ["flat", "ivf", "flat"]
    queries, _ = blobs(1, 50)
    scores = detector.score(queries).numpy()
    assert spearmanr(scores, per_class_oracle(train, labels, queries, 20)).statistic > 0.99
    loaded = create_detector("knn").load_state_dict(detector.state_dict())
    np.testing.assert_array_equal(loaded.score(queries), scores)
    assert [bank.kind for bank in loaded._banks] == kinds


def variant(**hyperparameters):
    """knn with other defaults, for checks that create a detector by its class."""
    declared = {name: Parameter(value, getattr(Knn, name).allowed) for name, value in hyperparameters.items()}
    return type("Variant", (Knn,), {**declared, "__doc__": Knn.__doc__})


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"index": "ivf"},
        {"index": "hnsw"},
        {"bank_size": 100, "k": 10},
        {"bank_size": 100, "balanced": True, "per_class": True},
        {"index": "ivf", "per_class": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Detector 'knn'")
def test_protocol(hyperparameters, monkeypatch):
    # The problems of the checks are small; let them go through the indexes nevertheless.
    for index in ("ivf", "hnsw"):
        monkeypatch.setitem(SMALLEST_BANK, index, 40)
    check_detector(variant(**hyperparameters))
