"""The digest of a model's weights."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from ood_nc.models import ControlledModel, weights_hash


def _model() -> ControlledModel:
    return ControlledModel("resnet10t", 10, projector=None, img_size=32).eval()


def test_weights_hash_against_a_plain_loop() -> None:
    model = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, shape in (("bias", "(1,)"), ("weight", "(1, 2)")):
        digest.update(f"{name} torch.float32 {shape}\n".encode() + getattr(model, name).detach().numpy().tobytes())
    assert weights_hash(model) == digest.hexdigest()


def test_weights_hash_tells_weights_dtypes_and_shapes_apart() -> None:
    model = _model()
    twin = copy.deepcopy(model)
    assert weights_hash(twin) == weights_hash(model)
    assert weights_hash(torch.compile(twin, backend="eager")) == weights_hash(model)
    assert weights_hash(copy.deepcopy(model).to(memory_format=torch.channels_last)) == weights_hash(model)
    with torch.no_grad():
        twin.head.bias[0] += 1e-6
    hashes = {weights_hash(m) for m in (model, twin, _model().bfloat16(), copy.deepcopy(model).double())}
    assert len(hashes) == 4
