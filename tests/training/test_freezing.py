from __future__ import annotations

import pytest
from torch import nn

from ood_nc.errors import UserError
from ood_nc.training.freezing import freeze, frozen_modules


def net() -> nn.Module:
    return nn.ModuleDict(
        {"backbone": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), "head": nn.Linear(4, 2)}
    )


def test_names_and_globs() -> None:
    model = net()
    assert frozen_modules(model) == []
    freeze(model, ["backbone.0.*", "backbone.1.*", "head.bias"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"backbone.2.weight", "backbone.2.bias", "head.weight"}
    assert frozen_modules(model) == [model["backbone"][1]]  # type: ignore[index]


@pytest.mark.parametrize(
    ("patterns", "said"), [(["backbon.*"], "no weight of the model"), (["*"], "no weight to train")]
)
def test_mistakes_are_one_line(patterns: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        freeze(net(), patterns)
