from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import ood_nc.models  # noqa: F401  registers the networks with timm

NAMES = ["convnet6", "convnet20", "mlp10", "cifar_resnet20"]


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_is_behind_the_pooled_features_and_can_be_replaced(name: str) -> None:
    model = timm.create_model(name, num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert features.shape == (2, model.num_features) and model.head_hidden_size == model.num_features
    classifier = model.get_classifier()
    assert torch.equal(model(images), features @ classifier.weight.T + classifier.bias)
    assert model.default_cfg["classifier"] == model.classifier
    model.double().reset_classifier(3)
    assert model.get_classifier().weight.dtype == torch.float64 and model(images.double()).shape == (2, 3)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(images.double()), model.forward_head(model.forward_features(images.double()), True))


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_comes_last_so_that_files_load_by_order(name: str) -> None:
    model = timm.create_model(name, num_classes=7)
    assert list(model.state_dict())[-2:] == [f"{model.classifier}.weight", f"{model.classifier}.bias"]
