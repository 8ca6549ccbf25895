from __future__ import annotations

import json

from accelerate import Accelerator

from ood_nc.config import Config, PixelConfig
from ood_nc.data import eval_transform
from ood_nc.models import ControlledModel
from ood_nc.training.setup import prepare


def test_the_pixel_rules_of_a_run_stay_with_its_model():
    rules = PixelConfig(value_range=(0, 4095), background="black", orientation=False, max_pixels=10_000)
    config = Config(model={"name": "resnet10t"}, data={"pixels": rules.model_dump()}, train={"workers": 0})
    setup = prepare(config, Accelerator(cpu=True))
    assert setup.loader.dataset.dataset.pixels == setup.val.pixels == setup.train_plain.pixels == rules
    copy = ControlledModel.from_spec(json.loads(json.dumps(setup.model.spec())))
    assert eval_transform(copy.preprocessing).pixels == rules
