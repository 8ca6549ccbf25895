from __future__ import annotations

import threading

import pytest
import timm
import torch
from torch import nn

from ood_nc.passes import channels_last, evaluating, hook, run_with


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 1)))
    layers.train()
    layers[1].eval()
    layers[2][0].eval()
    return layers


def flags(module: nn.Module) -> list[bool]:
    return [layer.training for layer in module.modules()]


def test_every_flag_comes_back_also_after_an_error() -> None:
    module = network()
    before = flags(module)
    assert True in before and False in before
    with pytest.raises(KeyError), evaluating(module):
        assert flags(module) == [False] * 6
        raise KeyError
    assert flags(module) == before


def test_flags_wait_for_the_last_of_overlapping_blocks() -> None:
    module = network()
    before = flags(module)
    first, second = evaluating(module), evaluating(module[2])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert flags(module[2]) == [False] * 3 and flags(module)[:3] == before[:3], "the second one still runs"
    second.__exit__(None, None, None)
    assert flags(module) == before


def test_a_train_method_that_does_more_is_not_called() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("weights would be merged here")

    module = Merging(1, 1)
    with evaluating(module):
        assert not module.training
    assert module.training


@pytest.mark.parametrize("training", [False, True])
def test_an_attention_does_not_keep_the_biases_of_earlier_weights(training: bool) -> None:
    model = timm.create_model("levit_128s", num_classes=2).train(training)
    images = torch.randn(1, 3, 224, 224)
    biases = [weight for name, weight in model.named_parameters() if "attention_bias" in name]

    def passed() -> torch.Tensor:
        with torch.no_grad(), evaluating(model):
            return model(images)

    first = passed()
    with torch.no_grad():
        for weight in biases:
            weight.normal_()
    second = passed()
    assert not torch.equal(first, second)
    other = timm.create_model("levit_128s", num_classes=2).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), second)
    # Nor is one left behind for the caller, whose own evaluation comes after more training.
    assert not any(getattr(layer, "attention_bias_cache", None) for layer in model.modules())


@pytest.mark.parametrize("before", [False, True])
def test_a_hook_acts_in_its_own_thread_alone(before: bool) -> None:
    layer = nn.Identity()
    remove = hook(layer, lambda module, arguments, *output: torch.zeros(1), before=before)
    others: list[float] = []
    thread = threading.Thread(target=lambda: others.append(layer(torch.ones(1)).item()))
    thread.start()
    thread.join()
    assert others == [1.0] and layer(torch.ones(1)).item() == 0.0
    remove()
    assert layer(torch.ones(1)).item() == 1.0
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_a_module_at_two_places_keeps_its_weights() -> None:
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    own, rows = shared.weight, torch.randn(2, 3)
    doubled = {name: 2 * value.detach() for name, value in network.named_parameters()}
    found = run_with(network, doubled, rows)
    assert shared.weight is own
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(2)
        torch.testing.assert_close(found, network(rows))


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))


def test_weights_are_channels_last_inside_and_where_they_were_afterwards() -> None:
    module = convolutions()
    before = [(weight.data_ptr(), weight.stride(), weight.clone()) for weight in module.parameters()]
    with pytest.raises(KeyError), channels_last(module):
        assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert not module[0].weight.is_contiguous()
        assert all(torch.equal(weight, kept) for weight, (*_, kept) in zip(module.parameters(), before, strict=True))
        raise KeyError
    for weight, (address, stride, kept) in zip(module.parameters(), before, strict=True):
        assert (weight.data_ptr(), weight.stride()) == (address, stride) and torch.equal(weight, kept)


def test_what_is_written_into_weights_meanwhile_is_kept() -> None:
    module, other = convolutions(), convolutions()
    address = module[0].weight.data_ptr()
    with channels_last(module):
        module.load_state_dict(other.state_dict())
    assert torch.equal(module[0].weight, other[0].weight) and module[0].weight.data_ptr() == address


def test_overlapping_blocks_leave_weights_where_they_were() -> None:
    module = convolutions()
    address = module[0].weight.data_ptr()
    first, second = channels_last(module), channels_last(module)
    for step in (first.__enter__, second.__enter__):
        step()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert module[0].weight.data_ptr() == address and module[0].weight.is_contiguous()


def test_weights_that_cannot_be_laid_out_are_left() -> None:
    with torch.inference_mode():
        module = convolutions()
    stride = module[0].weight.stride()
    with channels_last(module), channels_last(nn.Conv2d(3, 4, 3, device="meta")):
        assert module[0].weight.stride() == stride
