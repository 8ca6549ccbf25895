from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ood_nc.config import (
    Config,
    GraphsConfig,
    IntermediateConfig,
    MultilabelConfig,
    known_keys,
    load,
)
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
        ({"loss.entropy_weight": {"encoder": 0.1, "layer1": "x"}}, r"^loss\.entropy_weight\.layer1: .* got 'x'"),
        ({"loss.entropy_weight": "much"}, r"^loss\.entropy_weight: .* got 'much'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(None, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: 5", "train.epochs"),
        ("model: {pooling: max}", "model.pooling.encoder"),
        ("loss: {terms: [{name: nc1, weight: 1}]}", "loss.terms.0.weight"),
    ],
)
def test_a_flag_inside_of_a_value_does_not_take_its_place(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key} cannot be set where {key.split('.')[0]}.* as a whole\.$"):
        load(write(tmp_path / "c.yaml", text), {key: 1})


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No configuration file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="is not YAML, line 3"):
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
    every = {"graphs": GraphsConfig(), "intermediate": IntermediateConfig(), "multilabel": MultilabelConfig()}
    full = Config().model_copy(update=every)  # no run has them all
    dumped = full.model_dump(mode="json")
    assert yaml.safe_load(full.to_yaml()) == dumped
    for key in known_keys():
        inner = dumped
        for part in key.split("."):
            assert part in inner, key
            inner = inner[part]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lr: 0.1}\noptim: {lr: 0.2}\n", r"line 2: 'optim' stands twice"),
        ("optim:\n  lr: 0.1\n  opt: sgd\n  lr: 0.2\n", r"line 4: 'lr' stands twice"),
        ("train: {seed: !!python/object:os.system x}", r"line 1: could not determine a constructor"),
        ("train: {seed: 2001-13-45}", r"month must be in 1\.\.12"),
        ("train: {seed: " + "9" * 5000 + "}", r"integer string conversion"),
        ("a: " + "[" * 5000, r"nested too deeply"),
        ("? {a: 1}\n: b\n", r"line 1: found unhashable key"),
        ("a: *nowhere", r"line 1: found undefined alias"),
        ("a: \x07", r"special characters are not allowed"),
    ],
)
def test_yaml_that_means_nothing_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"c\.yaml is not YAML, .*{message}") as caught:
        load(write(tmp_path / "c.yaml", text))
    assert "\n" not in str(caught.value)


def test_merged_mappings_may_repeat_keys(tmp_path: Path) -> None:
    text = "optim: &base {lr: 0.1, opt: sgd}\ntrain: {epochs: 2}\n"
    assert load(write(tmp_path / "c.yaml", text)).optim.opt == "sgd"
    merged = "model: {kwargs: {a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}}\n"
    assert load(write(tmp_path / "d.yaml", merged)).model.kwargs["b"] == {"x": 1, "y": 3}
    assert load(write(tmp_path / "bom.yaml", "\ufefftrain: {epochs: 3}\n")).train.epochs == 3


@pytest.mark.parametrize(
    ("controls", "match"),
    [
        ([{"metric": "vci", "target": 1.5}], "vci lies between 0 and 1"),
        ([{"metric": "nc1", "target": 0}], "nc1 lies between 0"),
        ([{"metric": "nc2", "target": 1}], r"control\.0\.metric"),
        ([{"target": 1, "side": "over"}], r"control\.0\.side"),
        ([{"target": 1}, {"metric": "vci", "target": 0.5}], "names the tap encoder twice"),
        ([{"tap": "encoder"}], r"control\.0\.target"),
    ],
)
def test_a_target_that_means_nothing_is_refused(controls, match):
    with pytest.raises(UserError, match=match):
        load(None, {"control": controls})
