from __future__ import annotations

import copy
from pathlib import Path

import pytest

from ood_nc.cli import flags
from ood_nc.config import load
from ood_nc.errors import UserError


def overrides(line: str) -> dict:
    return flags.split(line.split(), set())[0]


def test_names_of_timm_mean_the_same_here() -> None:
    line = (
        "--model resnet50 --pretrained --num-classes 7 --img-size 64 -b 32 --opt sgd --lr 1e-2 --weight-decay 1e-4 "
        "--sched cosine --epochs 3 --warmup-epochs 1 --min-lr 1e-5 --smoothing 0.2 --drop-path 0.1 --amp --amp-dtype "
        "bfloat16 --torchcompile --channels-last --grad-accum-steps 2 --clip-grad 1.0 --seed 5 -j 0 --output out "
        "--experiment 001 --log-wandb --wandb-project p --wandb-tags a,b"
    )
    config = load(None, overrides(line))
    assert (config.model.name, config.model.pretrained, config.model.num_classes) == ("resnet50", True, 7)
    assert (config.train.batch_size, config.train.seed, config.train.workers) == (32, 5, 0)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.min_lr) == (1e-2, 1e-4, 1e-5)
    assert (config.train.amp, config.train.amp_dtype, config.train.clip_grad) == (True, "bfloat16", 1.0)
    assert (config.output, config.experiment) == ("out", "001")
    assert config.tracking.wandb_tags == ["a", "b"]


@pytest.mark.parametrize(
    "line",
    ["--optim.weight_decay 0.1", "--weight-decay=0.1", "--weight_decay 0.1", "--optim.weight-decay=0.1"],
)
def test_spellings_of_one_key(line: str) -> None:
    assert overrides(line) == {"optim.weight_decay": 0.1}


def test_switches_take_a_value_or_none() -> None:
    assert overrides("--amp=true --pretrained") == {"train.amp": True, "model.pretrained": True}
    assert overrides("--amp false --lr 1") == {"train.amp": False, "optim.lr": 1}


def test_an_ambiguous_last_part_is_no_flag() -> None:
    _, rest = flags.split(["--source", "x"], set())
    assert rest == ["--source", "x"]


def test_sets_by_name() -> None:
    config = load(None, overrides("--ood a=/x b=/y --data.ood.b.group near --transfer t=/z"))
    assert {name: (ood.source, ood.group) for name, ood in config.data.ood.items()} == {
        "a": ("/x", "far"),
        "b": ("/y", "near"),
    }
    assert config.data.transfer["t"].train == "/z"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--ood", "c=/z"], ["a", "b", "c"]),
        (["--ood", "{}"], []),
        (["--data.ood={}"], []),
        (["--ood", "c=/z", "--ood={}"], []),
        (["--ood", "{}", "c=/z"], ["c"]),
        (["--ood", "{}", "--ood", "c=/z"], ["c"]),
        (["--ood", "{c: /z}"], ["c"]),
    ],
)
def test_a_mapping_of_the_file_is_added_to_or_replaced(words: list[str], left: list[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {ood: {a: /x, b: /y}}\n")
    given, rest = flags.split(words, set())
    before = copy.deepcopy(given)
    assert sorted(load(file, given).data.ood) == left
    assert (given, rest) == (before, [])


def test_the_arguments_of_a_file_are_emptied(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {kwargs: {a: 1}}\noptim: {opt_kwargs: {b: 1}}\n")
    config = load(file, overrides("--model.kwargs {} --opt-kwargs={}"))
    assert (config.model.kwargs, config.optim.opt_kwargs) == ({}, {})


def test_what_a_command_reserves_is_left_alone() -> None:
    assert flags.split(["--output", "x", "--lr", "1"], {"--output"}) == ({"optim.lr": 1}, ["--output", "x"])


@pytest.mark.parametrize("line", ["--lr", "--lr --epochs 3", "--ood", "--ood /", "--kwargs a", "--no-amp=true"])
def test_a_flag_without_its_value(line: str) -> None:
    with pytest.raises(UserError):
        overrides(line)


def test_unknown_dotted_keys_reach_the_schema() -> None:
    with pytest.raises(UserError, match="entropy_weight"):
        load(None, overrides("--loss.entropy_weigth 0.1"))


def test_the_help_names_every_key() -> None:
    text = flags.help_text()
    assert "--optim.lr" in text
    assert "--data.ood" in text
    assert "(--lr)" in text


def test_lists_are_words_commas_or_yaml() -> None:
    three = {"evaluation.detectors": ["msp", "knn", "energy"]}
    for line in ("--detectors msp knn energy", "--detectors msp,knn,energy", "--detectors msp, knn energy"):
        assert load(None, overrides(line)).evaluation.detectors == three["evaluation.detectors"], line
    assert overrides("--detectors=[msp,knn,energy]") == three
    assert load(None, overrides("--detectors knn")).evaluation.detectors == ["knn"]
    assert load(None, overrides("--decay-milestones 3")).optim.decay_milestones == [3]
    assert load(None, overrides("--graphs.held_out_classes=6")).graphs.held_out_classes == [6]
    assert overrides("--decay-milestones 3 6 --scale 0.5 1 --lr -1") == {
        "optim.decay_milestones": [3, 6], "augment.scale": [0.5, 1], "optim.lr": -1,
    }  # fmt: skip


def test_a_run_directory_is_no_value_of_the_list_before_it(tmp_path) -> None:
    (tmp_path / "config.yaml").touch()
    assert flags.split(["--detectors", "msp", "knn", str(tmp_path)], set()) == (
        {"evaluation.detectors": ["msp", "knn"]}, [str(tmp_path)],
    )  # fmt: skip


def test_a_source_may_go_by_its_own_name() -> None:
    config = load(None, overrides("--ood /data/textures/ dtd.tar.xz::test bundled/noise x=/y --transfer /t/birds"))
    assert {name: ood.source for name, ood in config.data.ood.items()} == {
        "textures": "/data/textures/", "dtd": "dtd.tar.xz::test", "noise": "bundled/noise", "x": "/y",
    }  # fmt: skip
    assert config.data.transfer["birds"].train == "/t/birds"
    with pytest.raises(UserError, match="two sets are called 'a'"):
        overrides("--ood /x/a /y/a")


@pytest.mark.parametrize("none", ["None", "null", "~"])
def test_none_as_sweep_agents_write_it(none: str) -> None:
    line = f"--clip-grad={none} --lr-base-size={none} --experiment={none} --data.test={none} --color-jitter={none}"
    config = load(None, overrides(line))
    assert config.train.clip_grad is config.optim.lr_base_size is config.experiment is config.data.test is None
    with pytest.raises(UserError, match=r"optim\.lr: "):
        load(None, overrides(f"--lr={none}"))


def test_switches_turn_off() -> None:
    line = "--no-amp --no-model.projector.normalize --no-weight-decay-exclude-1d --no-log_wandb --no-aug"
    assert overrides(line) == {
        "train.amp": False, "model.projector.normalize": False, "optim.weight_decay_exclude_1d": False,
        "tracking.log_wandb": False, "augment.no_aug": True,
    }  # fmt: skip
    assert flags.split(["--no-lr", "--no-such"], set()) == ({}, ["--no-lr", "--no-such"])
