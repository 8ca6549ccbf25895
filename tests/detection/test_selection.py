from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import (
    DetectorInfo,
    FeatureDetector,
    TapQueries,
    TapStatistics,
    create_detector,
    list_detectors,
    register_detector,
)
from ood_nc.detection.selection import select, synthetic_outliers
from ood_nc.errors import UserError
from ood_nc.scores import auroc, fpr_at_tpr

CLASSES, DIM = 4, 6


def classes_and_outliers(seed=0, scale=1.0):
    """Train, held-out ID and outliers that lie in the directions of the classes, nearer to the origin by ``scale``."""
    rng = np.random.default_rng(seed)
    means = 10 * np.eye(CLASSES, DIM)
    labels = np.arange(400) % CLASSES
    train, held_out, outliers = (means[labels] + rng.normal(size=(400, DIM)) for _ in range(3))
    return train, labels, held_out, outliers * scale


def contexts(train, labels, held_out, outliers):
    return TapStatistics(train, labels), TapQueries(held_out), TapQueries(outliers)


def test_finds_that_norms_carry_the_signal():
    data = classes_and_outliers(scale=0.5)
    space = {"normalize": (True, False), "k": (1, 10)}
    found = select("knn", *contexts(*data), space=space, selected_on="validation OOD: short features")
    assert found.parameters["normalize"] is False
    assert found.value > 0.99
    assert found.selected_on == "validation OOD: short features"
    assert [dict(trial.parameters) for trial in found.trials] == [
        {"normalize": True, "k": 1},
        {"normalize": False, "k": 1},
        {"normalize": True, "k": 10},
        {"normalize": False, "k": 10},
    ]
    # Each value is that of a fit by hand.
    train, _, held_out, outliers = data
    for trial in found.trials:
        detector = create_detector("knn", **trial.parameters).fit(train)
        assert trial.value == auroc(detector.score(held_out), detector.score(outliers))
        assert trial.value <= found.value


def test_finds_the_right_k():
    # Train holds 20 mislabelled outliers: up to the 20th neighbour they vouch for the others of their kind.
    rng = np.random.default_rng(0)
    train = np.r_[rng.normal(size=(300, 4)), 8 + 0.1 * rng.normal(size=(20, 4))]
    held_out, outliers = rng.normal(size=(200, 4)), 8 + 0.1 * rng.normal(size=(200, 4))
    space = {"k": (1, 5, 10, 50, 100), "normalize": (False,)}
    given = TapStatistics(train), TapQueries(held_out), TapQueries(outliers)
    for metric in ("auroc", "fpr95_id_positive"):
        found = select("knn", *given, metric=metric, space=space, selected_on="validation OOD")
        assert found.parameters["k"] == 50
        assert found.value == (1 if metric == "auroc" else 0)
    worst = {trial.parameters["k"]: trial.value for trial in found.trials}
    detector = create_detector("knn", k=1, normalize=False).fit(train)
    assert worst[1] == fpr_at_tpr(detector.score(held_out), detector.score(outliers)) == 1


def test_ties_go_to_the_defaults():
    rng = np.random.default_rng(0)
    given = (
        TapStatistics(rng.normal(size=(90, 3))),
        TapQueries(rng.normal(size=(50, 3))),
        TapQueries(np.full((9, 3), 99)),
    )
    # Everything separates far outliers, so no value is better than another.
    space = {"k": (1, 50, None), "normalize": (False,)}
    found = select("knn", *given, space=space, selected_on="far outliers")
    assert found.parameters == {"k": None, "normalize": False}
    assert select("knn", *given, space={"k": (3, 2)}, selected_on="far outliers").parameters["k"] in (2, 3)


def test_default_space_holds_the_defaults_first():
    found = select("knn", *contexts(*classes_and_outliers()), selected_on="more ID")
    assert found.trials[0].parameters == {}
    # k = 500 and 1,000 do not fit into 400 samples.
    refused = [trial for trial in found.trials if trial.value is None]
    assert {trial.parameters["k"] for trial in refused} == {500, 1000}
    assert all("is more than the 400 features" in trial.reason for trial in refused)
    settings = [tuple(sorted(trial.parameters.items())) for trial in found.trials]
    assert len(set(settings)) == len(settings)


def test_nothing_to_choose():
    logits = np.random.default_rng(0).normal(size=(50, 3))
    given = TapStatistics(None, logits=logits), TapQueries(None, logits=3 * logits), TapQueries(None, logits=logits)
    found = select("max_logit", *given, selected_on="smaller logits")
    assert found.parameters == {}
    assert len(found.trials) == 1


def test_seeded_subsample():
    given = contexts(*classes_and_outliers(scale=0.7))
    space = {"k": tuple(range(1, 101)), "normalize": (True, False)}
    first, again, other = (
        select("knn", *given, space=space, max_trials=6, seed=seed, selected_on="validation OOD") for seed in (1, 1, 2)
    )
    assert first == again
    assert len(first.trials) == 6
    assert len({str(trial.parameters) for trial in first.trials}) == 6
    assert [trial.parameters for trial in first.trials] != [trial.parameters for trial in other.trials]
    alone = select("knn", *given, max_trials=1, selected_on="validation OOD")
    assert [trial.parameters for trial in alone.trials] == [{}]


@pytest.fixture
def fragile(monkeypatch):
    """A detector of the mean whose settings fail in every way they can."""
    from ood_nc.detection import registry

    monkeypatch.setattr(registry.DETECTORS, "_entries", dict(registry.DETECTORS._entries))
    list_detectors()

    @register_detector
    class Fragile(FeatureDetector):
        """Mean feature."""

        name = "fragile"
        info = DetectorInfo("t", "v", "u", "n", "d", "c")
        requires = frozenset({"features"})

        def __init__(self, *, way="good"):
            self.way = way

        def _fit(self, train):
            if self.way == "error":
                raise UserError("refused")
            if self.way == "singular":
                torch.linalg.cholesky(torch.zeros(2, 2))
            if self.way == "bug":
                raise ZeroDivisionError
            self.fitted_ = 1.0

        def _score(self, queries):
            score = queries.features.double().mean(dim=1)
            return score * float("nan") if self.way == "nan" else -score if self.way == "bad" else score

    return Fragile


def test_failed_trials_do_not_win(fragile):
    rows = np.arange(40.0).reshape(20, 2)
    given = TapStatistics(rows), TapQueries(rows), TapQueries(rows - 15)
    ways = ("nan", "error", "singular", "bad", "good")
    for metric in ("auroc", "fpr95_id_positive"):
        found = select("fragile", *given, metric=metric, space={"way": ways}, selected_on="shifted")
        assert found.parameters == {"way": "good"}
        assert [trial.value is None for trial in found.trials] == [True, True, True, False, False]
        reasons = [trial.reason for trial in found.trials]
        assert "NaN" in reasons[0]
        assert reasons[1] == "refused"
        assert "cholesky" in reasons[2]
        assert reasons[3:] == [None, None]
    with pytest.raises(UserError, match="none of 2 settings works; the first: refused"):
        select("fragile", *given, space={"way": ("error", "nan")}, selected_on="shifted")
    # A bug is no setting that does not fit: it shows.
    with pytest.raises(ZeroDivisionError):
        select("fragile", *given, space={"way": ("bug", "good")}, selected_on="shifted")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "aupr"}, "Unknown selection metric 'aupr'"),
        ({"selected_on": " "}, "selected_on must say"),
        ({"max_trials": 0}, "max_trials must be at least 1"),
        ({"space": {"neighbours": (1,)}}, "no hyper-parameter 'neighbours'"),
        ({"space": {"k": ()}}, "no values for 'k'"),
    ],
)
def test_user_errors(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        select("knn", *contexts(*classes_and_outliers()), **{"selected_on": "validation OOD", **arguments})
    assert "\n" not in str(caught.value)


def test_synthetic_outliers_lie_outside_of_the_classes():
    _, labels, held_out, _ = classes_and_outliers()
    made = synthetic_outliers(held_out, labels).numpy()
    assert made.shape == held_out.shape
    assert made.dtype == held_out.dtype
    means = np.stack([held_out[labels == c].mean(axis=0) for c in range(CLASSES)])

    def to_nearest(rows):
        return np.linalg.norm(rows[:, None] - means, axis=2).min(axis=1)

    inside = to_nearest(held_out)
    crossed, mixed, shifted = (auroc(-inside, -to_nearest(kind)) for kind in (made[:134], made[134:267], made[267:]))
    # Two coordinates tell two classes apart here, so half of the crosses have both from the same one.
    assert crossed == pytest.approx(0.75, abs=0.07)
    assert mixed > 0.99
    assert shifted > 0.9


def test_synthetic_outliers_are_what_they_say():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    # The class shows in the first digit, the sample behind it, in every coordinate.
    held_out = 1000 * (1 + labels[:, None]) + np.arange(600)[:, None] + np.array([0.25, 0.5])
    made = synthetic_outliers(held_out, labels, seed=3).numpy()
    crossed, mixed = made[:200], made[200:400]
    for row in crossed:
        sources = {np.floor(value) for value in row}
        assert 1 <= len(sources) <= 2
        assert all(value in held_out[:, j] for j, value in enumerate(row))
    two = crossed[np.floor(crossed[:, 0]) != np.floor(crossed[:, 1])]
    assert len(two) == pytest.approx(100, abs=30)
    assert (np.floor(two[:, 0] / 1000) != np.floor(two[:, 1] / 1000)).all()
    # On the segment between two samples, and so never further out than they are.
    np.testing.assert_allclose(mixed[:, 1] - mixed[:, 0], 0.25, rtol=1e-9)
    assert (mixed > held_out.min(axis=0)).all()
    assert (mixed < held_out.max(axis=0)).all()
    # Noise around samples: three times the standard deviation within the classes.
    spread = rng.normal(size=(30_000, 3)) @ np.diag([1.0, 2, 0]) + 50 * np.eye(3)[np.arange(30_000) % 3]
    noisy = synthetic_outliers(spread, np.arange(30_000) % 3).numpy()[20_000:]
    nearest = 50 * np.eye(3)[noisy.argmax(axis=1)]
    np.testing.assert_allclose((noisy - nearest).std(axis=0), np.sqrt(10) * np.array([1, 2, 0]), rtol=0.03, atol=1e-6)


def test_synthetic_outliers_keep_the_sign_and_the_seed():
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(50, 8)), 0).astype(np.float32)
    labels = np.arange(50) % 5
    before = rows.copy()
    made = synthetic_outliers(rows, labels)
    assert made.min() >= 0
    assert made.dtype == torch.float32
    np.testing.assert_array_equal(rows, before)
    assert torch.equal(made, synthetic_outliers(torch.from_numpy(rows), labels))
    assert not torch.equal(made, synthetic_outliers(rows, labels, seed=1))
    assert synthetic_outliers(rows - 1, labels).min() < 0
    for n in (2, 3, 4, 5, 50):
        assert synthetic_outliers(rows[:n]).shape == (n, 8)
        assert torch.equal(synthetic_outliers(rows[:n]), synthetic_outliers(rows[:n], np.zeros(n)))
    with pytest.raises(UserError, match="at least 2 samples, got 1"):
        synthetic_outliers(rows[:1])


def test_selected_on_held_out_alone():
    # What synthetic outliers choose does well on outliers that were never seen.
    train, labels, held_out, _ = classes_and_outliers()
    synthetic = synthetic_outliers(held_out, labels)
    given = TapStatistics(train, labels), TapQueries(held_out), TapQueries(synthetic)
    found = select("knn", *given, space={"k": (1, 10, 200)}, selected_on="synthetic outliers")
    unseen = TapQueries(5 + 2 * np.random.default_rng(1).normal(size=(200, DIM)))
    values = {}
    for k in (1, 10, 200):
        detector = create_detector("knn", k=k).fit(train)
        values[k] = auroc(detector.score(held_out), detector.score(unseen))
    # A class has 100 samples, so the 200th neighbour is of another one.
    assert found.parameters["k"] != 200
    assert values[found.parameters["k"]] > values[200]


def test_non_finite_queries_fail_as_everywhere():
    train, labels, held_out, outliers = classes_and_outliers()
    outliers[3] = np.nan
    with pytest.raises(UserError, match=r"none of .* hold NaN or infinity"):
        select("knn", *contexts(train, labels, held_out, outliers), selected_on="broken")
