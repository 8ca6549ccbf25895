"""What is fitted equals the parts put together by hand, and the guarantee holds on fresh images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from ood_nc.data import eval_transform
from ood_nc.deployment import Detector, fit_detector
from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.evaluation import evaluate
from ood_nc.features import extract
from ood_nc.models import ControlledModel
from ood_nc.scores import ScoreEnsemble
from tests.deployment.conftest import digits, halves, make_model, near


def features(model, dataset, tap):
    return extract(model, dataset.with_transform(eval_transform(model.preprocessing))).taps[tap]


def test_scores_are_those_of_the_detector_on_the_tap(model: ControlledModel, fitted: Detector) -> None:
    train = digits("train")
    by_hand = create_detector("mahalanobis").fit(features(model, train, "encoder"), train.targets)
    fresh = near()
    expected = by_hand.score(features(model, fresh, "encoder"))
    found = fitted([fresh.load(index) for index in range(len(fresh))])
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    held_out, _ = halves(digits("test"))
    calibration = by_hand.score(features(model, held_out, "encoder")).numpy()
    np.testing.assert_allclose(fitted.calibration.scores, calibration, rtol=1e-5)
    below = (calibration[None] <= found.scores.numpy()[:, None]).sum(axis=1)
    np.testing.assert_allclose(found.p_values, (1 + below) / (len(calibration) + 1))
    assert (found.accepted.numpy() == (found.scores.numpy() >= fitted.threshold.value)).all()
    # Accepted is what the p-value accepts at the level of the threshold.
    assert (found.accepted.numpy() == (found.p_values.numpy() > 0.05)).all()


def test_the_head_tap_reads_the_models_own_logits(model: ControlledModel) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, detectors=["energy"])
    bank = extract(model, fresh.with_transform(detector.transform))
    images = [fresh.load(index) for index in range(len(fresh))]
    np.testing.assert_allclose(detector(images).scores, bank.logits.double().logsumexp(dim=1), rtol=1e-5)
    assert (detector(images).predictions == bank.logits.argmax(dim=1)).all()


def test_one_image_is_judged_as_in_a_batch(fitted: Detector) -> None:
    images = [near().load(index) for index in range(5)]
    together = fitted(images)
    for index, image in enumerate(images):
        alone = fitted(image)
        np.testing.assert_allclose(alone.scores, together.scores[index : index + 1], rtol=1e-6)
    assert together.predicted_names == [str(int(c)) for c in together.predictions]


@pytest.mark.slow
def test_the_accepted_share_of_fresh_id_images_over_twenty_seeds(model: ControlledModel) -> None:
    whole = digits("train")
    inside = 0
    total = 0
    for seed in range(20):
        first, rest = halves(whole, seed)
        held_out, fresh = halves(rest, seed)
        detector = fit_detector(model, first, held_out, detectors=["mahalanobis"], taps=["encoder"], tpr=0.95)
        batch = torch.stack([detector.transform(fresh.load(index)) for index in range(len(fresh))])
        accepted = int(detector(batch).accepted.sum())
        n = len(held_out)
        rejected = int(np.floor(0.05 * (n + 1) + 1e-9))
        low, high = betabinom(len(fresh), n + 1 - rejected, rejected).interval(0.9999)
        assert low <= accepted <= high
        inside, total = inside + accepted, total + len(fresh)
    # Over seeds: the mean of the rule is (n + 1 - j) / (n + 1), never below 0.95.
    assert inside / total == pytest.approx(0.955, abs=0.02)


def test_per_class_thresholds(model: ControlledModel) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(
        model, digits("train"), held_out, detectors=["mahalanobis"], taps=["encoder"], per_class=True, tpr=0.8
    )
    bank = extract(model, held_out.with_transform(detector.transform))
    predicted = bank.logits.argmax(dim=1).numpy()
    scores = detector.calibration.scores.numpy()
    verdict = detector([fresh.load(index) for index in range(len(fresh))])
    for score, p_value, accepted, label in zip(
        verdict.scores, verdict.p_values, verdict.accepted, verdict.predictions, strict=True
    ):
        same = scores[predicted == int(label)]
        assert float(p_value) == pytest.approx((1 + (same <= float(score)).sum()) / (len(same) + 1))
        assert bool(accepted) == (float(p_value) > 0.2 + 1e-9)


def test_an_ensemble_is_scaled_on_one_half_and_calibrated_on_the_other(model: ControlledModel) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(
        model, digits("train"), held_out, detectors=["mahalanobis", "energy"], taps=["encoder", "projector"]
    )
    assert [member.name for member in detector.members] == [
        "mahalanobis on encoder",
        "energy on encoder",
        "mahalanobis on projector",
        "energy on projector",
    ]
    assert len(detector.calibration.scores) == pytest.approx(len(held_out) / 2, abs=3)
    batch = torch.stack([detector.transform(fresh.load(index)) for index in range(20)])
    scores, _ = detector.member_scores(batch)
    assert isinstance(detector.ensemble, ScoreEnsemble)
    assert torch.equal(detector(batch).scores, detector.ensemble.score(scores))


def test_hyper_parameters_are_chosen_without_the_test_sets(model: ControlledModel) -> None:
    held_out, _ = halves(digits("test"))
    settings = {"detectors": ["knn"], "taps": ["encoder"], "choose": True}
    synthetic = fit_detector(model, digits("train"), held_out, **settings)
    record = synthetic.about["chosen"]["knn on encoder"]
    assert record["selected_on"] == "held-out ID and synthetic outliers"
    assert synthetic.members[0].detector.get_params()["k"] == record["parameters"].get("k")
    validation = near().with_transform(synthetic.transform)
    named = fit_detector(model, digits("train"), held_out, **settings, validation_ood=validation)
    assert named.about["chosen"]["knn on encoder"]["selected_on"] == "held-out ID and the validation OOD set"


def test_a_detector_that_fits_on_held_out_images_is_calibrated_on_others(model: ControlledModel) -> None:
    held_out, _ = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, detectors=["temperature"])
    assert len(detector.calibration.scores) == pytest.approx(len(held_out) / 2, abs=3)


def test_an_input_detector(model: ControlledModel) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, detectors=["odin"])
    assert len(detector.calibration.scores) == len(held_out)
    batch = torch.stack([detector.transform(fresh.load(index)) for index in range(6)])
    np.testing.assert_allclose(detector(batch).scores, detector.members[0].detector.score(batch))
    again = fit_detector(model, digits("train"), held_out, detectors=["odin"], taps=model.tap_names[-2:])
    assert len(again.members) == 1 and again.ensemble is None


def test_mistakes_are_one_line(model: ControlledModel) -> None:
    train, held_out = digits("train"), digits("test")
    with pytest.raises(UserError, match=r"no tap 'encodr'\. Did you mean 'encoder'\?"):
        fit_detector(model, train, held_out, taps=["encodr"])
    with pytest.raises(UserError, match="300 of 300 images of the held-out ID set are also in ID train"):
        fit_detector(model, held_out, held_out)
    with pytest.raises(UserError, match="to one detector only"):
        fit_detector(model, train, held_out, detectors=["knn", "energy"], parameters={"k": 3})
    with pytest.raises(UserError, match="set choose too"):
        fit_detector(model, train, held_out, validation_ood=near())
    with pytest.raises(UserError, match="has no hyper-parameter 'kk'"):
        fit_detector(model, train, held_out, parameters={"kk": 3})
    with pytest.raises(UserError, match="has no images"):
        fit_detector(model, train, held_out.subset([]))


@pytest.mark.parametrize("turn", [0, 1])
def test_a_head_of_classes_in_another_order_is_told_as_an_evaluation_tells_it(turn: int) -> None:
    model, train, held_out = make_model(), digits("train"), digits("test")
    model.class_names = None
    means = torch.stack([features(model, train, model.head_tap)[train.targets == label].mean(0) for label in range(5)])
    model.head = torch.nn.Linear(*reversed(means.shape))
    with torch.no_grad():
        model.head.weight.copy_(means.roll(turn, 0))
        model.head.bias.copy_(-means.square().sum(1).roll(turn) / 2)
    fitted = fit_detector(model, train, held_out, detectors=["energy"])
    found = evaluate(model, id=held_out, id_train=train, ood={"near": near()}, detectors=["energy"], probes=["knn"])
    told = [note.replace("the held-out ID images", "ID test") for note in fitted.about["notes"]]
    assert set(told) <= set(found.identity["notes"])
    assert ["less than chance" in note for note in told] == [False, True][: 1 + turn]


def test_what_cannot_be_chosen_is_refused_before_an_image_is_read(model: ControlledModel, monkeypatch) -> None:
    """It was after every pass over the images, and after the other detectors were fitted."""
    unread = digits("train")
    monkeypatch.setattr(type(unread), "load", None)
    with pytest.raises(UserError, match="'odin' needs the network: set its hyper-parameters by hand"):
        fit_detector(model, unread, digits("test"), detectors=["knn", "odin"], choose=True)
