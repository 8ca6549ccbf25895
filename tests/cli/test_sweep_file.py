"""What a sweep file says, against the code of the W&B agent that reads the same file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ood_nc.cli import flags
from ood_nc.cli.command import find_config, read_run_config
from ood_nc.cli.sweep import trial_name
from ood_nc.cli.sweep_file import read_sweep
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.models import build_model
from ood_nc.training.objectives import create_objective

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
RUN = ["ood-nc", "run", "--config=quickstart", "${args}"]
RANDOM = {"method": "random", "run_cap": 4}


def write(tmp_path: Path, **values: Any) -> Path:
    document = {"method": "grid", "parameters": {"optim.lr": {"values": [0.1]}}, "command": RUN, **values}
    path = tmp_path / "tried.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_is_a_grid_of_valid_configurations_under_its_own_name(path: Path) -> None:
    sweep = read_sweep(find_config(path.stem, "sweep", "sweeps"))
    assert (
        sweep.name == path.stem and len(sweep.settings) == len({trial_name(sweep, one) for one in sweep.settings}) >= 6
    )
    configs = set()
    for setting in sweep.settings:
        overrides, rest = flags.split(sweep.words(setting), {"--config"})
        assert rest == ["run", "--config=quickstart"]
        config = load(find_config("quickstart"), overrides)
        configs.add(config.to_yaml())
        if setting["train.seed"] == 0:  # its terms find their taps
            create_objective(config, build_model(config.model, 5), torch.zeros(1))
    assert len(configs) == len(sweep.settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_flags_are_those_of_the_wandb_agent(path: Path) -> None:
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = read_sweep(path)
    for setting in sweep.settings[:4]:
        command = {"args": {key: {"value": value} for key, value in setting.items()}}
        args = agent.create_sweep_command_args(command)["args"]
        assert [word for word in sweep.words(setting) if word in args] == args


def test_a_grid_is_every_combination_in_order(tmp_path: Path) -> None:
    parameters = {"a.b": {"values": [1, 2]}, "c": {"min": 3, "max": 4}, "d": {"value": "x"}}
    found = read_sweep(write(tmp_path, parameters=parameters)).settings
    assert found == [{"a.b": a, "c": c, "d": "x"} for a in (1, 2) for c in (3, 4)]


def test_random_draws_by_distribution_the_same_ones_each_time(tmp_path: Path) -> None:
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "wd": {"min": 0.0, "max": 2.0},
        "depth": {"min": 1, "max": 3},
        "alpha": {"min": 0, "max": 0.5},
        "width": {"distribution": "q_uniform", "min": 0.0, "max": 8.0, "q": 2},
        "kind": {"values": ["a", "b"]},
    }
    path = write(tmp_path, method="random", parameters=parameters, run_cap=400)
    settings = read_sweep(path).settings
    assert settings == read_sweep(path).settings and len(settings) == 400
    logs = [math.log10(one["lr"]) for one in settings]
    assert min(logs) >= -4 and max(logs) <= -1 and abs(sum(logs) / 400 + 2.5) < 0.2
    assert abs(sum(one["wd"] for one in settings) / 400 - 1) < 0.15
    assert {one["depth"] for one in settings} == {1, 2, 3} and {one["kind"] for one in settings} == {"a", "b"}
    assert {one["width"] for one in settings} == {0, 2, 4, 6, 8}
    assert abs(sum(one["alpha"] for one in settings) / 400 - 0.25) < 0.04


def test_trials_of_another_command_are_others(tmp_path: Path) -> None:
    digits = read_sweep(write(tmp_path))
    photos = read_sweep(write(tmp_path, command=["ood-nc", "run", "--config=photos.yaml", "${args}"]))
    assert digits.settings == photos.settings
    assert trial_name(digits, digits.settings[0]) != trial_name(photos, photos.settings[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "bayes"}, "use grid or random, or wandb agent"),
        ({"method": "random"}, "run_cap"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate"),
        ({"parameters": {}}, "no sweep"),
        ({"parameters": {"optim": {"parameters": {"lr": {"value": 1}}}}}, "dotted keys"),
        ({"parameters": {"lr": {"values": []}}}, "at least one"),
        ({"parameters": {"lr": {"min": 0.1, "max": 0.2}}}, "whole numbers"),
        ({"parameters": {"lr": {"max": 1}}}, "min and max"),
        ({"parameters": {"lr": {"min": "1e-5", "max": "1e-2"}}}, "YAML reads 1e-5 as text"),
        ({"parameters": {"lr": {"min": 5, "max": 1}}}, "min is 5, more than max, which is 1"),
        ({"run_cap": -1}, "a whole number from 1, got -1"),
        ({"run_cap": "3"}, "a whole number from 1, got '3'"),
        ({**RANDOM, "parameters": {"lr": {"values": [1, 2], "probabilities": [0.5]}}}, "no value can be drawn"),
        ({**RANDOM, "parameters": {"lr": {"mu": 1, "distribution": "uniform"}}}, "no value can be drawn"),
        (
            {**RANDOM, "parameters": {"lr": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
            "tried.yaml, lr: no value can be drawn",
        ),
        ({"command": ["python", "train.py", "${args}"]}, "must be ood-nc run"),
        ({"command": ["ood-nc", "run", "${args_json}"]}, "not ${args_json}"),
        ({"command": ["ood-nc", "run", "--seeds", "0", "1", "${args}"]}, "in place of --seeds vary train.seed"),
        ({"parameters": {"seeds": {"value": 0}}}, "in place of --seeds vary train.seed"),
    ],
)
def test_what_is_not_done_here_is_one_line(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        read_sweep(write(tmp_path, **changes))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_no_sweep_lists_those_that_are() -> None:
    with pytest.raises(UserError, match=r"'alpa'.*alpha.*Give a YAML file or one of: alpha, augmentation"):
        find_config("alpa", "sweep", "sweeps")


def test_runs_of_a_wandb_agent_have_directories_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "k3j2")
    assert read_run_config(None, {}, resume=False).run_directory == Path("runs/k3j2")
    assert read_run_config(None, {"experiment": "mine"}, resume=False).run_directory == Path("runs/mine")
