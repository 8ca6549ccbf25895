from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ood_nc.config import Config, known_keys, load
from ood_nc.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_flag_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "train: {epochs: 3}\n")
    assert load(file).train.epochs == 3
    assert load(file, {"train.epochs": 7}).train.epochs == 7
    default = Config().train.epochs
    assert default != 3
    assert load(file, {"train.epochs": default}).train.epochs == default


def test_the_resolved_configuration_is_a_valid_file(tmp_path: Path) -> None:
    config = load(None, {"optim.lr": "1e-3", "model.taps": "layer1, encoder", "data.ood": {"a": "b"}})
    assert config.optim.lr == 1e-3
    assert config.model.taps == ["layer1", "encoder"]
    assert load(write(tmp_path / "c.yaml", config.to_yaml())) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss.entropy_weigth": 0.1}, "Did you mean 'entropy_weight'"),
        ({"train.epoch": 3}, "Did you mean 'epochs'"),
        ({"modl.name": "x"}, "Did you mean 'model'"),
        ({"optim.lr": "fast"}, "optim.lr: .*'fast'"),
        ({"optim.lr": -1}, "optim.lr: .*greater than 0"),
        ({"model.projector.kind": "none", "loss.entropy_weight": {"projector": 1.0}}, "names the projector"),
        ({"data.ood.x.source": "a", "data.ood.x.group": "middle"}, "data.ood.x.group: .*'near'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(None, overrides)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No configuration file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="line 3 is not YAML"):
        load(write(tmp_path / "broken.yaml", "train:\n  epochs: [1\nx: }"))
    with pytest.raises(UserError, match="keys and values"):
        load(write(tmp_path / "list.yaml", "- 1\n"))
    assert load(write(tmp_path / "empty.yaml", "")) == Config()


def test_a_plain_value_may_stand_for_a_mapping() -> None:
    config = load(None, {"data.ood.tex": "folder", "data.ood.tex.group": "near", "data.transfer.t": "pool"})
    assert config.data.ood["tex"].model_dump() == {"source": "folder", "group": "near"}
    assert config.data.transfer["t"].train == "pool"
    config = load(None, {"loss.entropy_weight": 0.1, "loss.entropy_weight.layer4": 0.2})
    assert config.loss.entropy_weights() == {"encoder": 0.1, "layer4": 0.2}
    assert load(None, {"loss.entropy_weight": 0}).loss.entropy_weights() == {}


def test_every_key_says_what_it_means() -> None:
    for key, field in known_keys().items():
        assert field.description, key
    dumped = Config().model_dump(mode="json")
    assert yaml.safe_load(Config().to_yaml()) == dumped
    for key in known_keys():
        inner = dumped
        for part in key.split("."):
            assert part in inner, key
            inner = inner[part]
