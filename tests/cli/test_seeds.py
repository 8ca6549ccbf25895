"""One run a seed: how the processes are kept, with stand-ins for the runs, and once for real."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest

from ood_nc.cli import main, seeds
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.files import write_text

SCRIPT = """
import os, sys, time
from pathlib import Path
folder, seed, code, wait = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
(folder / f"pid-{seed}").write_text(str(os.getpid()))
(folder / f"started-{seed}").write_text(os.environ.get("OMP_NUM_THREADS", ""))
time.sleep(wait)
(folder / f"ended-{seed}").touch()
sys.exit(code)
"""


@pytest.fixture
def stand_in(monkeypatch):
    """Lets a script stand for each run: ``stand_in(codes={1: 2}, wait=0.0)``."""

    def install(codes=None, wait=0.0):
        def command(folder, seed):
            return [sys.executable, "-c", SCRIPT, str(folder), str(seed), str((codes or {}).get(seed, 0)), str(wait)]

        monkeypatch.setattr(seeds, "_command", command)

    return install


def start(tmp_path, *, given=(0, 1, 2), jobs=1, resume=False, **overrides):
    overrides = {"output": str(tmp_path), "experiment": "g", **overrides}
    return seeds.run_seeds(None, overrides, given, jobs=jobs, resume=resume)


def names(folder, prefix):
    return sorted(path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*"))


def test_every_seed_is_run_and_the_group_knows_its_configuration(tmp_path, stand_in):
    stand_in()
    folder = start(tmp_path, **{"optim.lr": 0.01})
    assert folder == tmp_path / "g" and names(folder, "ended-") == ["0", "1", "2"]
    config = load(folder / "group.yaml")
    assert (config.optim.lr, config.tracking.wandb_group, config.tracking.wandb_job_type) == (0.01, "g", "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g"]


def test_jobs_run_beside_each_other_on_a_share_of_the_cores(tmp_path, stand_in, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stand_in(wait=1.0)
    since = time.monotonic()
    folder = start(tmp_path, given=(0, 1, 2, 3), jobs=4)
    assert time.monotonic() - since < 4.0  # one after the other takes longer
    assert (folder / "started-0").read_text() == str(max(1, (os.cpu_count() or 1) // 4))


def test_a_run_that_fails_leaves_the_others_and_is_named(tmp_path, stand_in):
    stand_in(codes={1: 2})
    with pytest.raises(UserError, match=r"1 of 3 runs failed \(seed 1\)\. .* go on with --resume"):
        start(tmp_path)
    assert names(tmp_path / "g", "ended-") == ["0", "1", "2"]
    with pytest.raises(UserError, match="already holds runs: go on with --resume"):
        start(tmp_path)


def test_resumed_what_is_finished_is_left_and_the_configuration_is_the_groups(tmp_path, stand_in):
    stand_in()
    folder = start(tmp_path, **{"optim.lr": 0.01})
    for seed in (0, 1):
        write_text(folder / f"g-seed{seed}" / "config.yaml", (folder / "group.yaml").read_text())
    write_text(folder / "g-seed0" / "report.html", "")
    for path in folder.glob("ended-*"):
        path.unlink()
    start(tmp_path, resume=True)
    assert load(folder / "group.yaml").optim.lr == 0.01
    assert names(folder, "ended-") == ["1", "2"]
    (tmp_path / "g").rename(tmp_path / "renamed")
    start(tmp_path, resume=True, experiment="renamed")
    assert not (tmp_path / "renamed" / "renamed-seed0").exists()
    assert seeds._is_finished(tmp_path / "renamed", 0) and not seeds._is_finished(tmp_path / "renamed", 1)
    (tmp_path / "renamed").rename(tmp_path / "g")
    write_text(folder / "g-seed0.old" / "config.yaml", "")
    assert seeds.members(folder) == [folder / "g-seed0", folder / "g-seed1"]
    assert seeds._is_finished(folder, 0)
    write_text(folder / "g-seed0" / "config.yaml", load(folder / "group.yaml", {"evaluation.bootstrap": 7}).to_yaml())
    assert not seeds._is_finished(folder, 0), "the group is measured otherwise"
    others = {"data.ood.textures": "bundled/textures"}, {"data.test": None}, {"train.patience": 3}
    for asked, finished in (*((one, False) for one in others), ({"data.root": "elsewhere"}, True)):
        write_text(folder / "g-seed0" / "config.yaml", load(folder / "group.yaml", asked).to_yaml())
        write_text(folder / "g-seed0" / "report.html", "")
        assert seeds._is_finished(folder, 0) == finished, asked
    config = load(folder / "g-seed0" / "config.yaml", {"train.epochs": 200})
    write_text(folder / "g-seed0" / "config.yaml", config.to_yaml())
    with pytest.raises(UserError, match=r"200 of seed 0, 100 of seed 1\): make them one"):
        seeds.members(folder)
    with pytest.raises(UserError, match=r"optim\.lr was 0\.01 in .* and is 0\.5 now"):
        start(tmp_path, resume=True, **{"optim.lr": 0.5})
    with pytest.raises(UserError, match=r"There is no group .* to resume"):
        start(tmp_path / "other", resume=True)


def test_a_run_that_stopped_while_it_was_prolonged_is_not_finished(tmp_path, stand_in):
    """It had the group's configuration and its old report, whose numbers were shown for the longer run."""
    stand_in()
    folder = start(tmp_path, given=(0,), **{"train.epochs": 1})
    member = folder / "g-seed0"
    write_text(member / "config.yaml", (folder / "group.yaml").read_text())
    write_text(member / "report.html", "of one epoch")
    assert seeds._is_finished(folder, 0)
    write_text(folder / "group.yaml", load(folder / "group.yaml", {"train.epochs": 3}).to_yaml())
    write_text(member / "config.yaml", (folder / "group.yaml").read_text())  # the run has begun to go on
    assert not seeds._is_finished(folder, 0)
    write_text(member / "report.html", "of three")
    assert seeds._is_finished(folder, 0)


def test_a_stop_reaches_every_run(tmp_path, stand_in):
    stand_in(wait=60.0)

    def stop():
        while len(names(tmp_path / "g", "started-")) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
        start(tmp_path, jobs=2)
    assert names(tmp_path / "g", "ended-") == []
    for path in (tmp_path / "g").glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


@pytest.mark.parametrize(("given", "overrides"), [((0, 0), {}), ((-1, 0), {}), ((0, 1), {"train.seed": 3})])
def test_seeds_that_mean_nothing(tmp_path, given, overrides):
    with pytest.raises(UserError, match="--seeds takes different seeds"):
        start(tmp_path, given=given, **overrides)


def test_a_run_stands_for_itself_and_an_empty_group_for_nothing(tmp_path):
    assert seeds.members(tmp_path) == [tmp_path]
    (tmp_path / "group.yaml").touch()
    with pytest.raises(UserError, match="holds no runs yet"):
        seeds.members(tmp_path)


@pytest.mark.slow
def test_groups_from_the_command_line(tmp_path, capsys):
    small = [
        *("--config", "quickstart", "--model", "test_resnet", "--img-size", "32", "--epochs", "1", "--limit", "20"),
        *("--eval-limit", "60", "--bootstrap", "50", "--taps", "encoder,projector", "-j", "0", "--device", "cpu"),
        *("--output", str(tmp_path), "--detectors", "knn", "energy", "--seeds", "0", "3", "--jobs", "2"),
    ]
    assert main(["run", *small, "--experiment", "a"]) == 0
    assert main(["run", *small, "--experiment", "b", "--projector", "plastic"]) == 0
    out = capsys.readouterr().out
    assert "over 2 seeds (seed 0 " in out
    document = json.loads((tmp_path / "a" / "seeds.json").read_text())
    (row,) = [row for row in document["seeds"] if row["metric"] == "accuracy" and row["method"] == "head"]
    own = [
        next(
            row["value"]
            for row in json.loads((run / "results.json").read_text())["rows"]
            if row["metric"] == "accuracy" and row["method"] == "head"
        )
        for run in seeds.members(tmp_path / "a")
    ]
    assert list(row["by_seed"].values()) == own and row["value"] == pytest.approx(sum(own) / 2)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "c.html")]) == 0
    assert "b against a (2 seeds)" in capsys.readouterr().out
    report = (tmp_path / "a" / "report.html").read_text()
    assert "a-seed0" in report and "a-seed3" in report and "over 2 seeds" in report
    assert main(["report", str(tmp_path / "a")]) == 0
