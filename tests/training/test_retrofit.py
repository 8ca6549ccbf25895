"""Projector and head on features: against an independent solver, and folded exactly."""

from __future__ import annotations

import pytest
import torch
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
        ({"loss.entropy_weight": 0.05}, "loss on tap 'encoder' changes nothing"),
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
