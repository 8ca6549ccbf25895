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
    dumped = Config().model_dump(mode="json")
    assert yaml.safe_load(Config().to_yaml()) == dumped
    for key in known_keys():
        inner = dumped
        for part in key.split("."):
            assert part in inner, key
            inner = inner[part]


NAN, INF = float("nan"), float("inf")

BAD = [
    ("train.seed", -1), ("train.seed", 2**63), ("train.seed", 1.5), ("train.seed", True), ("train.seed", "a"),
    ("train.epochs", 0), ("train.epochs", -3), ("train.epochs", True), ("train.epochs", 1e300), ("train.epochs", NAN),
    ("train.batch_size", 0), ("train.batch_size", -8), ("train.batch_size", 10**12), ("train.batch_size", [4]),
    ("train.grad_accum_steps", 0), ("train.clip_grad", 0), ("train.clip_grad", -1), ("train.clip_grad", INF),
    ("train.workers", -1), ("train.workers", 10**6), ("train.device", ""), ("train.amp_dtype", "float8"),
    ("train.amp", "perhaps"), ("train.log_interval", 0), ("train.track_interval", -1),
    ("train.checkpoint_interval", -1), ("optim.lr", 0), ("optim.lr", -0.1), ("optim.lr", INF), ("optim.lr", NAN),
    ("optim.lr", True), ("optim.lr", 1e30), ("optim.lr_base_size", 0), ("optim.weight_decay", -1),
    ("optim.weight_decay", INF), ("optim.momentum", 1), ("optim.opt", ""), ("optim.opt_kwargs", {"eps": NAN}),
    ("optim.sched", "cosin"), ("optim.warmup_epochs", -1), ("optim.warmup_lr", -1e-3), ("optim.min_lr", INF),
    ("optim.decay_epochs", 0), ("optim.decay_rate", 0), ("optim.decay_milestones", [0, 5]),
    ("augment.scale", [5, 1]), ("augment.scale", [0.5, 0.1]), ("augment.scale", [0, 1]), ("augment.scale", [0.5]),
    ("augment.ratio", [2, 1]), ("augment.ratio", [-1, 1]), ("augment.hflip", 1.5), ("augment.reprob", -0.1),
    ("augment.color_jitter", INF), ("augment.mixup", -1), ("augment.cutmix", NAN), ("augment.aug_repeats", -1),
    ("loss.smoothing", 1), ("loss.smoothing", -0.1), ("loss.entropy_weight", NAN), ("loss.entropy_weight", INF),
    ("loss.entropy_weight", {"encoder": NAN}), ("loss.entropy_weight", {"": 1}), ("loss.task", "hinge"),
    ("model.name", ""), ("model.name", "a\0b"), ("model.taps", []), ("model.taps", [""]), ("model.taps", ","),
    ("model.img_size", 4), ("model.img_size", 10**9), ("model.in_chans", 0), ("model.num_classes", 1),
    ("model.drop", 1), ("model.drop_path", -0.5), ("model.projector.depth", 0), ("model.projector.width", INF),
    ("model.projector.dim", 0), ("model.kwargs", {"a": [1, INF]}), ("model.checkpoint", ""),
    ("data.train", ""), ("data.train", "a\nb"), ("data.val_fraction", 0), ("data.val_fraction", 1), ("data.limit", 0),
    ("data.eval_limit", -5), ("data.ood", {"mean": "x"}), ("data.ood", {"../x": "y"}), ("data.ood", {"": "y"}),
    ("data.ood", {"a": ""}), ("data.transfer", {"id_test": "x"}), ("data.transfer", {"a/b": "x"}),
    ("evaluation.batch_size", 0), ("evaluation.bootstrap", -1), ("evaluation.bootstrap", 10**9),
    ("evaluation.detectors", [""]), ("evaluation.detectors", 5), ("tracking.wandb_project", ""),
    ("tracking.wandb_project", "a/b"), ("output", ""), ("experiment", "../../x"), ("experiment", ".."),
    ("experiment", "a/b"), ("experiment", "/tmp/x"), ("experiment", ""), ("experiment", " "), ("experiment", "a\tb"),
    ("experiment", "x" * 300), ("experiment", "\ud800"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_value_without_meaning_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{key}\b.* \(in flags\)") as caught:
        load(None, {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.warmup_epochs": 1_000_000}, r"optim\.warmup_epochs is 1000000, more than train\.epochs.* 100"),
        ({"optim.min_lr": 1e30}, r"optim\.min_lr is 1e\+30, more than optim\.lr"),
        ({"optim.warmup_epochs": 1, "optim.warmup_lr": 0.5}, r"optim\.warmup_lr is 0\.5, more than optim\.lr"),
        ({"evaluation.choose": "texture", "data.ood": {"textures": "x"}}, r"choose is 'texture'.*synthetic, textures"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(None, overrides)


def test_what_a_schedule_does_not_use_is_not_compared() -> None:
    load(None, {"optim.sched": "none", "optim.warmup_epochs": 1000, "optim.min_lr": 1.0})
    load(None, {"optim.lr": 1e-12})  # the default warm-up rate is higher, and there is no warm-up
    load(None, {"optim.warmup_epochs": 3, "train.epochs": 3})


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
