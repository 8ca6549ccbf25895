"""Projector and head on features: against an independent solver, and folded exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ood_nc.config import ProjectorConfig, load
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.training import EncoderFeatures, fit_behind_encoder, from_encoder, with_projector

CLASSES = ("a", "b", "c")


def network(**options):
    torch.manual_seed(0)
    return ControlledModel("test_resnet", 3, projector=None, taps=("encoder",), img_size=32, **options).eval()


def clouds(seed=0, n=300, dim=96):
    rng = torch.Generator().manual_seed(seed)
    means = 30 + 4 * torch.randn(3, dim, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(n) % 3
    return EncoderFeatures(means[labels] + 10 * torch.randn(n, dim, generator=rng), labels)


def digits():
    """The 64 pixels of digits as features of an encoder: 1,400 to learn from, the rest held out."""
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    rows, labels = torch.tensor(rows[order]).float(), torch.tensor(labels[order])
    return EncoderFeatures(rows[:1400], labels[:1400]), EncoderFeatures(rows[1400:], labels[1400:])


def nc1(rows, labels):
    """tr(Sigma_W Sigma_B^+) / C in float64, the classes one by one."""
    rows, labels = rows.detach().double().numpy(), labels.numpy()
    within = between = np.zeros((rows.shape[1], rows.shape[1]))
    classes = np.unique(labels)
    for label in classes:
        own = rows[labels == label]
        deviations, mean = own - own.mean(0), own.mean(0) - rows.mean(0)
        within = within + deviations.T @ deviations / len(rows)
        between = between + np.outer(mean, mean) / len(classes)
    return np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes)


def configured(**changes):
    settings = {"loss.entropy_weight": 0.0, "train.epochs": 30, "train.batch_size": 50, "train.device": "cpu"}
    return load(None, {**settings, **changes})


class Log:
    def __init__(self):
        self.lines = []

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self, summary):
        pass


def test_a_trained_projector_and_its_head_tell_classes_apart_as_a_solver_does():
    model, log = network(), Log()
    new = with_projector(model, ProjectorConfig(kind="plastic"), CLASSES)
    before = {name: value.clone() for name, value in new.backbone.state_dict().items()}
    train, val = clouds(), clouds(1)
    scores = fit_behind_encoder(new, train, val, configured(), [log])
    solver = LogisticRegression(C=0.01, max_iter=2000).fit(train.features, train.labels)
    assert scores["accuracy"] > solver.score(val.features, val.labels) - 0.05 > 0.8
    # Folded, the model gives what it gave while it learned: on features of mean 30, as they are.
    logits, taps = from_encoder(new)({"encoder": val.features})
    assert float((logits.argmax(1) == val.labels).float().mean()) == pytest.approx(scores["accuracy"], abs=1e-6)
    torch.testing.assert_close(taps["projector"].norm(dim=1), torch.ones(300))
    torch.testing.assert_close(logits, new.head(new.projector(val.features)))
    assert all(torch.equal(value, before[name]) for name, value in new.backbone.state_dict().items())
    loss = torch.nn.functional.cross_entropy(logits.double(), val.labels, label_smoothing=0.1)
    assert scores["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert len(log.lines) == 60 and log.lines[-1] == (180, {"epoch": 30, "split": "val", **scores})


def test_a_frozen_projector_stays_and_its_head_learns():
    new = with_projector(network(), ProjectorConfig(), CLASSES)
    weights = [layer.weight.clone() for layer in new.projector.layers]
    train = clouds()
    scores = fit_behind_encoder(new, train, clouds(1), configured(**{"optim.lr": 0.1}))
    assert all(torch.equal(layer.weight, old) for layer, old in zip(new.projector.layers, weights, strict=True))
    assert scores["accuracy"] > 0.8


def test_a_term_that_draws_classes_together_does():
    terms = {"loss.terms": [{"name": "within_class", "tap": "projector", "weight": 1.0}]}
    shares = []
    for changes in ({}, terms):
        new = with_projector(network(), ProjectorConfig(kind="plastic"), CLASSES)
        fit_behind_encoder(new, clouds(), clouds(1), configured(**changes, **{"train.epochs": 5}))
        rows, labels = from_encoder(new)({"encoder": clouds().features})[1]["projector"].detach(), clouds().labels
        within = sum(float((rows[labels == c] - rows[labels == c].mean(0)).square().sum()) for c in range(3))
        shares.append(within / float((rows - rows.mean(0)).square().sum()))
    assert shares[1] < 0.7 * shares[0]


@pytest.mark.parametrize(
    ("kind", "target"),
    [*(pytest.param("plastic", target, marks=pytest.mark.slow) for target in (0.45, 1.8)), ("simplex_etf", 0.6)],
)
def test_an_adapter_is_steered_to_its_target(kind, target, caplog):
    (train, val), log = digits(), Log()
    model = ControlledModel("cifar_resnet20", 10, projector=None, taps=("encoder",))
    new = with_projector(model, ProjectorConfig(kind=kind, adapter=16), [str(digit) for digit in range(10)])
    assert new.tap_names == ("encoder", "adapter", "projector")
    backbone = {name: value.clone() for name, value in new.backbone.state_dict().items()}
    assert nc1(from_encoder(new)({"encoder": train.features})[1]["adapter"], train.labels) == pytest.approx(
        0.913, abs=1e-3
    )
    changes = {"control": [{"tap": "adapter", "metric": "nc1", "target": target}], "train.batch_size": 100}
    scores = fit_behind_encoder(new, train, val, configured(**changes), [log])
    _, taps = from_encoder(new)({"encoder": train.features})
    found = nc1(taps["adapter"], train.labels)
    assert found == pytest.approx(target, rel=0.1)
    assert all(torch.equal(value, backbone[name]) for name, value in new.backbone.state_dict().items())
    assert torch.equal(taps["encoder"], train.features)
    # Folded, every part gives on features as they are what it gave while it learned.
    torch.testing.assert_close(taps["adapter"], new.adapter(train.features))
    torch.testing.assert_close(taps["projector"], new.projector(taps["adapter"]))
    held_out = from_encoder(new)({"encoder": val.features})[0].argmax(1) == val.labels
    assert float(held_out.float().mean()) == pytest.approx(scores["accuracy"], abs=1e-6)
    lines = [line for _, line in log.lines if line["split"] == "control"]
    assert [line["epoch"] for line in lines] == list(range(1, 31))
    last = lines[-1]
    assert last["control/adapter/nc1/target"] == target and last["control/adapter/nc1/weight"] != 0
    assert last["control/adapter/nc1/measured"] == pytest.approx(found, rel=1e-3)
    assert f"control: nc1 of adapter at {target:g} is" in caplog.text


@pytest.mark.slow
def test_a_projector_is_steered_too():
    train, val = digits()
    model = ControlledModel("cifar_resnet20", 10, projector=None, taps=("encoder",))
    new = with_projector(model, ProjectorConfig(kind="plastic"), [str(digit) for digit in range(10)])
    control = [{"tap": "projector", "metric": "nc1", "target": 0.5}]  # left to itself it ends below 0.25
    fit_behind_encoder(new, train, val, configured(control=control, **{"train.batch_size": 100}))
    found = nc1(from_encoder(new)({"encoder": train.features})[1]["projector"], train.labels)
    assert found == pytest.approx(0.5, rel=0.15)


def test_the_same_seed_gives_the_same_weights_and_its_specification_the_same_network():
    made = []
    for _ in range(2):
        new = with_projector(network(), ProjectorConfig(kind="plastic", dim=8), CLASSES, seed=3)
        fit_behind_encoder(new, clouds(), clouds(1), configured(**{"train.epochs": 1}))
        made.append(new.state_dict())
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    again = ControlledModel.from_spec(new.spec())
    again.load_state_dict(made[1])
    assert again.class_names == CLASSES and again.projector.out_dim == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.entropy_weight": 0.05}, "loss on tap 'encoder' changes nothing.*name the projector"),
        ({"control": [{"tap": "encoder", "target": 1.0}]}, "tap 'encoder' changes nothing"),
        ({"control": [{"tap": "adapter", "target": 1.0}]}, "names 'adapter', which is no tap"),
        ({"optim.lr": 1000.0, "optim.opt": "sgd", "optim.momentum": 0.99}, "The loss became"),
    ],
)
def test_mistakes_are_one_line(changes, message):
    new = with_projector(network(), ProjectorConfig(kind="plastic", normalize=False), CLASSES)
    with pytest.raises(UserError, match=message):
        fit_behind_encoder(new, clouds(), clouds(1), configured(**changes))


def test_features_of_another_width_and_a_second_projector_are_refused():
    new = with_projector(network(), ProjectorConfig(), CLASSES)
    with pytest.raises(UserError, match="8 columns are not of an encoder of 96"):
        fit_behind_encoder(new, clouds(dim=8), clouds(dim=8), configured())
    with pytest.raises(UserError, match="has a projector already"):
        with_projector(new, ProjectorConfig(), CLASSES)
    with pytest.raises(UserError, match="name one"):
        with_projector(network(), ProjectorConfig(kind="none"), CLASSES)
