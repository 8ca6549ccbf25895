from __future__ import annotations

import pytest
import torch
from torch import nn

from ood_nc.detection import Network, NonFiniteError
from ood_nc.errors import UserError
from tests.detection.images import PROBLEMS, Residual, captured, residual


@pytest.fixture
def problem():
    return residual()


@pytest.fixture
def network(problem):
    return Network(problem.network)


def test_reads_layers_and_features(problem, network):
    done = network.run(problem.queries, read=("down", "last.0", "down"), with_features=True)
    for row, image in enumerate(problem.queries):
        for name in ("down", "last.0"):
            assert torch.allclose(done.outputs[name][row], captured(problem.network, name, image))
    assert torch.allclose(done.logits, done.features @ problem.network.fc.weight.T)
    assert set(done.outputs) == {"down", "last.0"}
    assert network.run(problem.queries).features is None


def test_a_layer_that_runs_several_times_gives_its_last_output(problem, network):
    read = network.run(problem.queries, read=("activation", "down")).outputs
    assert torch.equal(read["activation"], read["down"].relu())


def test_replaces_outputs(problem, network):
    module = problem.network
    zeroed = network.run(problem.queries, replace={"last": torch.zeros_like}, read=("last",))
    with torch.no_grad():
        maps = module.activation(module.stem(problem.queries))
        maps = module.activation(module.down(maps + module.activation(module.narrow(maps))))
        expected = module.fc(module.flat(maps.relu()))
    assert torch.allclose(zeroed.logits, expected)
    assert (zeroed.outputs["last"] == 0).all()
    assert not torch.allclose(network.logits(problem.queries), expected)


def test_input_gradient_of_each_image(problem, network):
    gradient, done = network.input_gradient(problem.queries, lambda done: done.logits[:, 1] ** 2, read=("down",))
    assert not (gradient.requires_grad or done.logits.requires_grad or done.outputs["down"].requires_grad)
    for row, image in enumerate(problem.queries):
        leaf = image[None].clone().requires_grad_()
        (expected,) = torch.autograd.grad(problem.network(leaf)[0, 1] ** 2, leaf)
        assert torch.allclose(gradient[row], expected[0])


def test_gradients_follow_the_callers_mode(problem, network):
    assert network.logits(problem.queries).requires_grad
    with torch.no_grad():
        assert not network.logits(problem.queries).requires_grad
        network.input_gradient(problem.queries, lambda done: done.logits[:, 0])
    with torch.inference_mode():
        gradient, _ = network.input_gradient(problem.queries.clone(), lambda done: done.logits[:, 0])
    assert gradient.shape == problem.queries.shape


def test_training_flags_are_each_their_own(problem, network):
    problem.network.train()
    problem.network.last[1].eval()
    before = problem.network.last[1].running_mean.clone()
    network.logits(problem.queries)
    assert problem.network.training and problem.network.last.training
    assert not problem.network.last[1].training
    assert torch.equal(problem.network.last[1].running_mean, before)


def test_stages_and_head():
    assert Network(PROBLEMS[0].network).stages(PROBLEMS[0].images) == ("stage1", "stage2")
    # The shared activation runs later and elsewhere than in the first stage, so it stands for none.
    assert Network(PROBLEMS[1].network).stages(PROBLEMS[1].images) == ("narrow", "last")
    assert Network(PROBLEMS[1].network).head(PROBLEMS[1].images) is PROBLEMS[1].network.fc


def test_stages_follow_the_image_size():
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(4)), nn.Flatten(), nn.LazyLinear(2))
    network = Network(deep)
    # 2 x 2 to 1 x 1: a map of one place has no room for statistics, and counts as none.
    assert network.stages(torch.zeros(1, 3, 16, 16)) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet10t", ("act1", "layer1", "layer2", "layer3", "layer4")),
        ("regnetx_002", ("stem", "s1", "s2", "s3", "final_conv")),
        ("convnext_atto", ("stages.0", "stages.1", "stages.2", "norm_pre")),
        ("mobilenetv3_small_050", ("bn1", "blocks.0", "blocks.1", "blocks.3", "blocks")),
    ],
)
def test_stages_of_known_networks(name, stages):
    timm = pytest.importorskip("timm")
    found = Network(timm.create_model(name)).stages(torch.zeros(1, 3, 64, 64))
    assert found == stages


def test_a_head_that_is_a_buffer_or_wrapped():
    from ood_nc.models.etf import ETFClassifier

    head = ETFClassifier(8, 4)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), head)
    images = torch.randn(3, 3, 2, 2)
    assert Network(module).head(images) is head
    assert Network(nn.Sequential(module, nn.Dropout())).head(images) is head
    with pytest.raises(UserError, match="not the output of a linear layer"):
        Network(nn.Sequential(module, nn.Softmax(dim=1))).head(images)


def test_our_own_model():
    from ood_nc.models import ControlledModel

    model = ControlledModel("resnet10t", 3, projector="simplex_etf").eval()
    images = torch.randn(2, 3, 64, 64)
    network = Network(model)
    assert network.head(images) is model.head
    assert network.stages(images)[1:] == ("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4")
    with torch.no_grad():
        logits, taps = model.forward_taps(images)
        done = network.run(images, with_features=True)
    assert torch.allclose(done.logits, logits)
    assert torch.allclose(done.features, taps["projector"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: n.run(x, read=("dwon",)), r"no layer 'dwon'\. Did you mean 'down'\?"),
        (lambda n, x: n.run(x, replace={"last.2": torch.relu}), "no layer 'last.2'"),
        (lambda n, x: n.prepare(x[0, 0, 0]), "floating-point batch"),
        (lambda n, x: n.prepare((255 * x).to(torch.uint8)), "got torch.uint8 of shape"),
    ],
)
def test_errors(problem, network, call, message):
    with pytest.raises(UserError, match=message):
        call(network, problem.queries)


class Odd(nn.Module):
    """A network with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.body, self.unused, self.fault = nn.LSTM(4, 3, batch_first=True), nn.Linear(1, 1), fault

    def forward(self, images):
        with torch.set_grad_enabled(self.fault != "no graph" and torch.is_grad_enabled()):
            logits = self.body(images.flatten(1)[:, None])[0][:, 0]
        return (logits, logits) if self.fault == "pair" else logits[0] if self.fault == "vector" else logits


def test_networks_that_do_not_fit():
    images = torch.randn(2, 1, 2, 2)
    with pytest.raises(UserError, match="it returned tuple: wrap it"):
        Network(Odd("pair")).logits(images)
    with pytest.raises(UserError, match=r"it returned \(3,\): wrap it"):
        Network(Odd("vector")).logits(images)
    with pytest.raises(UserError, match="runs under no_grad"):
        Network(Odd("no graph")).input_gradient(images, lambda done: done.logits[:, 0])
    with pytest.raises(UserError, match="'unused' does not run"):
        Network(Odd("")).run(images, read=("unused",))
    with pytest.raises(UserError, match="Layer 'body' returns tuple, not one tensor"):
        Network(Odd("")).run(images, read=("body",))
    with pytest.raises(UserError, match="no layer with a feature map: name the layers"):
        Network(Odd("")).stages(images)
    with pytest.raises(UserError, match=r"must be a torch\.nn\.Module, got function"):
        Network(lambda images: images)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("swin_tiny_patch4_window7_224", 224)])
def test_tokens_and_channels_last_maps_after_the_last_map(name, size):
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=3)
    with pytest.raises(UserError, match="goes on with tokens after its last feature map: name the layers"):
        Network(network).stages(torch.zeros(1, 3, size, size))


def test_hooks_go_when_an_edit_raises(problem, network):
    def fails(output):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        network.run(problem.queries, replace={"last": fails}, read=("down",), with_features=True)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in problem.network.modules()]
    assert sum(hooks) == 0


def test_non_finite_images_are_counted(problem, network):
    images = problem.queries.clone()
    images[[2, 5], 0, 0, 0] = torch.tensor([float("nan"), -float("inf")], dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="images: 2 of 112 rows hold NaN or infinity, the first is row 102"):
        network.prepare(images, 100)


def test_images_follow_the_network(problem):
    network = Network(Residual().to(torch.bfloat16))
    assert network.prepare(problem.queries).dtype == torch.bfloat16
    assert Network(nn.ReLU()).device.type == "cpu"
