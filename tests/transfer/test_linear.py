"""The linear probe: its protocol, what scikit-learn reaches, closed forms, and mistakes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ood_nc.errors import UserError
from ood_nc.transfer import fit_linear_probe, linear, linear_probe
from ood_nc.transfer._softmax_regression import Blocks, curvature_of, evaluate, minimise, standardise
from ood_nc.transfer._stratify import hold_out
from ood_nc.transfer.linear import CHOOSING
from tests.helpers.samples import clusters

TRAIN, TRAIN_LABELS = clusters(300, 20, 5, 1.5, seed=1)
TEST, TEST_LABELS = clusters(200, 20, 5, 1.5, seed=2)


def test_reaches_what_scikit_learn_reaches_on_digits(digits: tuple) -> None:
    train_features, train_labels, test_features, test_labels = digits
    best = max(
        LogisticRegression(C=strength, max_iter=500)
        .fit(train_features / 16, train_labels)
        .score(test_features / 16, test_labels)
        for strength in (0.1, 1, 10)
    )
    result = linear_probe(*digits)
    # Three standard errors of a difference of two accuracies; the best on the test set is itself chosen high.
    assert abs(result.accuracy - best) < 3 * np.sqrt(2 * best * (1 - best) / len(test_labels))
    assert result.accuracy == np.mean(result.predictions.numpy() == test_labels)
    assert result.low < result.accuracy < result.high
    assert (result.n, result.unseen, result.selected_on) == (len(test_labels), 0, "held out of train")
    assert result.selected.keys() == {"penalty", "held_out_accuracy"}
    assert result.seconds > 0


@pytest.mark.parametrize(("spread", "tolerance"), [(0.3, 0.0), (2.0, 0.05)])
def test_comes_close_to_the_bayes_rule(spread: float, tolerance: float) -> None:
    train_features, train_labels = clusters(2000, 8, 4, spread, seed=0)
    test_features, test_labels = clusters(2000, 8, 4, spread, seed=1)
    means = np.random.default_rng(99).normal(size=(4, 8))
    bayes = np.argmin(((test_features[:, None] - means) ** 2).sum(axis=2), axis=1)
    result = linear_probe(train_features, train_labels, test_features, test_labels)
    assert result.accuracy >= np.mean(bayes == test_labels) - tolerance


def test_an_exactly_collapsed_tap_is_right_on_a_share_of_c_in_k() -> None:
    collapsed = np.eye(3, dtype=np.float32)
    labels = np.arange(600) % 6
    features = collapsed[labels // 2]
    result = linear_probe(features, labels, features, labels)
    assert result.accuracy == pytest.approx(3 / 6)
    assert linear_probe(features, labels // 2, features, labels // 2).accuracy == 1


def test_weight_and_bias_act_on_raw_features() -> None:
    result = linear_probe(TRAIN * 3 + 7, TRAIN_LABELS, TEST * 3 + 7, TEST_LABELS)
    logits = (TEST * 3 + 7) @ result.weight.numpy().T + result.bias.numpy()
    assert result.weight.shape == (5, 20) and result.weight.dtype == result.bias.dtype == torch.float32
    assert np.array_equal(logits.argmax(axis=1), result.predictions.numpy())


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 100.0), (1e-4, 0.0), (1e4, -3e5), (1e-3, 1.0)])
def test_scale_and_shift_of_the_features_do_not_matter(scale: float, shift: float) -> None:
    plain = fit_linear_probe(TRAIN.astype(np.float64), TRAIN_LABELS)
    moved = fit_linear_probe(TRAIN.astype(np.float64) * scale + shift, TRAIN_LABELS)
    assert moved.selected == plain.selected
    torch.testing.assert_close(moved.weight * scale, plain.weight, rtol=2e-3, atol=2e-4)
    logits = moved.logits(TEST.astype(np.float64) * scale + shift)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, plain.logits(TEST.astype(np.float64)), rtol=1e-2, atol=2e-2)


def test_the_penalty_is_the_best_held_out_one() -> None:
    penalties, seed = (1e-1, 1e1, 1e-3, 1.0), 4
    labels = torch.from_numpy(TRAIN_LABELS)
    samples = standardise(torch.from_numpy(TRAIN), labels)
    kept, held_out = hold_out(labels, 0.2, seed)
    everything = Blocks.of(samples, torch.cat([kept, held_out]))
    parts = everything.part(slice(len(kept))), everything.part(slice(len(kept), None))
    parameters, scores = torch.zeros(5, 21), {}
    for penalty in sorted(penalties, reverse=True):
        parameters = minimise(parts[0], parameters, penalty, curvature_of(everything), CHOOSING)
        accuracies, losses = evaluate(parts[1], parameters[None])
        scores[penalty] = accuracies.item(), -losses.item()
    selected = fit_linear_probe(TRAIN, TRAIN_LABELS, seed=seed, penalties=penalties).selected
    assert scores[selected["penalty"]] == max(scores.values())
    assert selected["held_out_accuracy"] == max(scores.values())[0]
    assert len(set(scores.values())) > 1


def test_the_path_ends_where_accuracy_and_loss_are_both_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which saves the smallest penalties, the dearest fits."""
    tried = []

    def evaluated(blocks: Blocks, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tried.append(parameters)
        accuracy, loss = [(0.5, 1.0), (0.6, 0.9), (0.59, 0.8), (0.58, 0.85), (0.9, 0.1)][len(tried) - 1]
        return torch.tensor([accuracy]), torch.tensor([loss])

    monkeypatch.setattr(linear, "evaluate", evaluated)
    selected = fit_linear_probe(TRAIN, TRAIN_LABELS, penalties=(1e1, 1.0, 1e-1, 1e-2, 1e-3)).selected
    assert len(tried) == 4 and selected == {"penalty": 1.0, "held_out_accuracy": pytest.approx(0.6)}


def test_is_fitted_anew_on_all_samples_to_scikit_learns_optimum() -> None:
    probe = fit_linear_probe(TRAIN, TRAIN_LABELS)
    scale = np.sqrt(TRAIN.astype(float).var(axis=0).mean())
    strength = 1 / (probe.selected["penalty"] * len(TRAIN))
    reference = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(
        TRAIN.astype(float) / scale, TRAIN_LABELS
    )
    probabilities = reference.predict_proba(TEST / scale)
    assert np.abs(probe.logits(TEST).double().softmax(dim=1).numpy() - probabilities).max() < 5e-3


def test_the_test_split_chooses_nothing() -> None:
    one = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    other = linear_probe(TRAIN, TRAIN_LABELS, TEST[::-1], (TEST_LABELS[::-1] + 1) % 5)
    assert torch.equal(one.weight, other.weight) and one.selected == other.selected
    assert torch.equal(one.predictions, other.predictions.flip(0))


def test_seeded_and_apart_from_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = fit_linear_probe(TRAIN, TRAIN_LABELS, seed=5)
    after = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(after, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(fit_linear_probe(TRAIN, TRAIN_LABELS, seed=5).weight, first.weight)
    assert not torch.equal(fit_linear_probe(TRAIN, TRAIN_LABELS, seed=6).weight, first.weight)


def test_layouts_and_dtypes_and_the_input_stays() -> None:
    kept = TRAIN.copy()
    probe = fit_linear_probe(TRAIN, TRAIN_LABELS)
    for same in (np.asfortranarray(TRAIN), np.repeat(TRAIN, 2, axis=0)[::2], torch.from_numpy(TRAIN)):
        torch.testing.assert_close(fit_linear_probe(same, list(TRAIN_LABELS)).weight, probe.weight)
    for dtype, tolerance in ((np.float64, 1e-3), (np.float16, 2e-2)):
        near = fit_linear_probe(TRAIN.astype(dtype), TRAIN_LABELS.astype(np.int32))
        agreement = near.logits(TEST).argmax(dim=1) == probe.logits(TEST).argmax(dim=1)
        assert agreement.float().mean() >= 1 - tolerance
    assert np.array_equal(TRAIN, kept)


def test_dead_and_nearly_dead_dimensions_do_no_harm() -> None:
    dead = np.zeros((300, 2), dtype=np.float32)
    dead[0, 0] = 1e-4
    probe = fit_linear_probe(np.hstack([TRAIN, dead]), TRAIN_LABELS)
    loud = np.hstack([TEST, np.ones((200, 2), dtype=np.float32)])
    quiet = np.hstack([TEST, np.zeros((200, 2), dtype=np.float32)])
    assert probe.weight[:, -1].abs().max() < 1e-6
    assert (probe.logits(loud) - probe.logits(quiet)).abs().max() < 1


def test_classes_absent_from_train_are_improbable() -> None:
    probe = fit_linear_probe(TRAIN, TRAIN_LABELS, num_classes=7)
    assert probe.weight.shape == (7, 20) and probe.bias.shape == (7,)
    assert probe.logits(TEST).softmax(dim=1)[:, 5:].max() < 0.2
    assert (probe.logits(TRAIN).argmax(dim=1) < 5).all()
    gap = linear_probe(TRAIN, np.where(TRAIN_LABELS == 4, 8, TRAIN_LABELS), TEST, TEST_LABELS)
    assert gap.weight.shape == (9, 20) and set(gap.predictions.tolist()) <= {0, 1, 2, 3, 8}


def test_a_class_in_test_only_is_wrong_and_counted() -> None:
    some = TRAIN_LABELS != 2
    result = linear_probe(TRAIN[some], TRAIN_LABELS[some], TEST, TEST_LABELS)
    assert result.unseen == 40
    assert not result.correct[torch.from_numpy(TEST_LABELS == 2)].any()
    only_in_train = linear_probe(TRAIN, TRAIN_LABELS, TEST[TEST_LABELS != 2], TEST_LABELS[TEST_LABELS != 2])
    assert only_in_train.unseen == 0 and only_in_train.n == 160


def test_a_class_with_one_sample_is_trained_on() -> None:
    features = np.concatenate([TRAIN, 50 * np.ones((1, 20), dtype=np.float32)])
    labels = np.append(TRAIN_LABELS, 5)
    assert fit_linear_probe(features, labels).logits(features[-1:]).argmax() == 5


def test_nothing_to_hold_out_means_nothing_is_chosen() -> None:
    features, labels = clusters(6, 30, 6, 0.1, seed=0)
    probe = fit_linear_probe(features, labels)
    assert probe.selected_on is None
    assert probe.selected == {"penalty": 1e-3}
    assert (probe.logits(features).argmax(dim=1).numpy() == labels).all()


def test_features_that_are_all_alike() -> None:
    result = linear_probe(np.ones((40, 3)), np.arange(40) % 4, np.ones((8, 3)), np.arange(8) % 4)
    assert result.accuracy == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": TRAIN_LABELS * 0 + 3}, "two classes.*only class 3"),
        ({"train_labels": TRAIN_LABELS - 1}, r"train_labels must be in .*got -1"),
        ({"train_labels": TRAIN_LABELS[:-1]}, "299 entries for 300"),
        ({"train_labels": TRAIN_LABELS + 10}, r"No class of test_labels \(such as 0\)"),
        ({"test_features": TEST[:, :7]}, "20 dimensions and test_features 7"),
        ({"test_features": TEST[:0], "test_labels": TEST_LABELS[:0]}, "test_features is empty"),
        ({"train_features": np.where(TRAIN[3, 4] == TRAIN, np.nan, TRAIN)}, "NaN, infinity or .* in 1 of 300"),
        ({"train_features": np.zeros((300, 7, 7, 8))}, "pooling"),
        ({"penalties": ()}, "must hold a value"),
        ({"penalties": (1.0, 0.0)}, "positive"),
    ],
)
def test_mistakes_are_one_line(change: dict, message: str) -> None:
    arguments = {
        "train_features": TRAIN,
        "train_labels": TRAIN_LABELS,
        "test_features": TEST,
        "test_labels": TEST_LABELS,
    }
    with pytest.raises(UserError, match=message) as caught:
        linear_probe(**{**arguments, **change})
    assert "\n" not in str(caught.value)


def test_logits_of_another_tap() -> None:
    with pytest.raises(UserError, match="7 dimensions, the probe was fitted on 20"):
        fit_linear_probe(TRAIN, TRAIN_LABELS).logits(TEST[:, :7])


def test_labels_outside_num_classes() -> None:
    with pytest.raises(UserError, match="class 4, but num_classes is 3"):
        fit_linear_probe(TRAIN, TRAIN_LABELS, num_classes=3)


@pytest.mark.slow
def test_takes_no_longer_than_one_fit_of_scikit_learn() -> None:
    """On features with the decaying spectrum that networks give, at the strength that was chosen."""
    features, labels = clusters(8000, 256, 10, 6.0, seed=0)
    features *= np.arange(1, 257, dtype=np.float32) ** -0.5
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())
    ratios = []
    for _ in range(4):
        start = time.process_time()  # not the clock on the wall, which others on the machine move
        probe = fit_linear_probe(features, labels)
        middle = time.process_time()
        LogisticRegression(C=1 / (probe.selected["penalty"] * len(labels)), max_iter=1000).fit(scaled, labels)
        ratios.append((middle - start) / (time.process_time() - middle))
    assert min(ratios[1:]) < 1.25, ratios
