"""Weights & Biases: offline for real, and a stand-in for what goes wrong."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import sys
import time
import types

import pytest

from ood_nc.tracking import LocalLog, WandbLog, open_trackers, read_log, sync_command

LINES = [
    ({"epoch": 0.5, "split": "train", "loss": 1.5, "entropy/encoder": -0.25}, 5),
    ({"epoch": 1.0, "split": "val", "accuracy": 0.5}, 10),
    ({"epoch": 1.0, "split": "collapse", "collapse/encoder/nc1_pinv": 2.0}, 10),
]

CONFIG = {"tracking": {"wandb_project": "p", "wandb_entity": None, "wandb_tags": ["t"]}}


def transaction_log(path):
    """The records of a .wandb file: a 7-byte header, then blocks of 32 KiB of chunks (crc, length, kind, data)."""
    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield record
            record = b""


def offline_records(directory):
    """Ids, configurations and history of every offline run in ``directory``, in the order they were written."""
    from wandb.proto import wandb_internal_pb2

    found = {"ids": [], "config": [], "history": [], "entity": [], "exit": []}
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for content in transaction_log(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["ids"].append(record.run.run_id)
                found["entity"].append(record.run.entity)
                found["config"].append({item.key: json.loads(item.value_json) for item in record.run.config.update})
            if kind == "exit":
                found["exit"].append(record.exit.exit_code)
            if kind == "history":
                items = record.history.item
                found["history"].append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


@pytest.mark.slow
def test_offline_run_holds_the_numbers_of_the_local_log_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    config = {**CONFIG, "train": {"lr": 0.1, "epochs": 3}}
    local = LocalLog(tmp_path / "metrics.jsonl")
    wandb_log = WandbLog(tmp_path, config)
    for values, step in LINES:
        local.log(values, step)
        wandb_log.log(values, step)
    wandb_log.finish({"best_accuracy": 0.5, "state": "interrupted"})
    started = max(path.name for path in tmp_path.glob("wandb/offline-run-*"))
    while time.strftime("%Y%m%d_%H%M%S") <= started.split("-")[2]:  # the folder of a part is named by its second
        time.sleep(0.1)
    resumed = WandbLog(tmp_path, config)
    resumed.log({"epoch": 0.5, "split": "train", "loss": 1.25}, 5)
    resumed.finish({})

    records, until = offline_records(tmp_path), time.monotonic() + 60
    while len(records["exit"]) < 2 and time.monotonic() < until:  # wandb's own process writes behind our back
        time.sleep(0.2)
        records = offline_records(tmp_path)
    assert len(records["ids"]) == 2 and len(set(records["ids"])) == 1
    assert set(records["entity"]) == {""}
    assert records["exit"] == [130, 0]
    assert sync_command(tmp_path) in [  # earlier versions of wandb join the parts by an option
        f"wandb sync {append}--id {records['ids'][0]} {tmp_path}/wandb/offline-run-*" for append in ("", "--append ")
    ]
    assert sync_command(tmp_path / "nowhere") is None
    assert records["config"][0]["train"] == config["train"]
    assert not [key for key in records["config"][0] if "." in key or key in ("lr", "epochs")]
    history = [{k: v for k, v in line.items() if not k.startswith("_")} for line in records["history"]]
    expected = []
    for line in [*read_log(tmp_path / "metrics.jsonl"), {"epoch": 0.5, "split": "train", "loss": 1.25, "step": 5}]:
        split = line.pop("split")
        expected.append(
            {k if k in ("step", "epoch") or k.startswith("collapse/") else f"{split}/{k}": v for k, v in line.items()}
        )
    assert history == expected  # the step that was logged again is there too: nothing is dropped


class FakeRun:
    def __init__(self, failing):
        self.failing, self.logged, self.finished, self.summary = failing, [], False, {}

    def define_metric(self, *_, **__):
        pass

    def log(self, values):
        if "log" in self.failing:
            raise RuntimeError("connection lost\nlong story")
        self.logged.append(values)

    def finish(self, exit_code=0):
        if "finish" in self.failing:
            raise OSError("no disk")
        self.finished = True


@pytest.fixture
def fake_wandb(monkeypatch):
    def install(*failing, key=False, old_login=False):
        module = types.ModuleType("wandb")
        module.run = FakeRun(failing)
        module.settings = []
        module.Settings = lambda **settings: settings
        module.api = types.SimpleNamespace(api_key="x" if key else None)

        def init(**settings):
            if "init" in failing:
                raise RuntimeError("403: entity not found")
            module.settings.append(settings)
            return module.run

        def login(prompt=True, verify=True):
            assert prompt is False and verify is False
            return key

        def login_of_old():
            raise AssertionError("it would have asked")

        module.init, module.login = init, login_of_old if old_login else login
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_failure_is_noted_once_and_the_run_goes_on(failing, fake_wandb, tmp_path, caplog):
    fake_wandb(failing)
    with caplog.at_level(logging.WARNING):
        (tracker,) = open_trackers(["wandb"], tmp_path, CONFIG)
        for values, step in LINES:
            tracker.log(values, step)
        tracker.finish({"best_accuracy": 1.0})
    assert len(caplog.records) == 1
    assert "goes on without it" in caplog.text and "\n" not in caplog.records[0].getMessage()


def test_without_the_package_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tracker,) = open_trackers(["wandb"], tmp_path, CONFIG)
    tracker.log({}, 1)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("old_login", [False, True])
@pytest.mark.parametrize(
    ("key", "variable", "mode"), [(False, None, "offline"), (True, None, None), (False, "online", None)]
)
def test_mode_and_entity(key, variable, mode, old_login, fake_wandb, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    module = fake_wandb(key=key, old_login=old_login)
    tracker = WandbLog(tmp_path, {"a": {"b": 1}, **CONFIG})
    tracker.finish({"best_accuracy": 0.5})
    (settings,) = module.settings
    assert settings["mode"] == mode
    assert (settings["project"], settings["entity"], settings["tags"]) == ("p", None, ["t"])
    assert settings["dir"] == str(tmp_path)
    assert settings["config"] == {"a": {"b": 1}, **CONFIG}
    assert settings["id"] == (tmp_path / "wandb" / "run-id.txt").read_text()
    assert module.run.finished and module.run.summary == {"best_accuracy": 0.5}


def test_a_moved_folder_goes_on_as_its_run_and_a_copied_one_as_another(fake_wandb, tmp_path, caplog):
    module = fake_wandb()

    def open_in(name):
        WandbLog(tmp_path / name, CONFIG)
        return module.settings[-1]["id"]

    first = open_in("a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert {open_in("b"), open_in("link"), open_in("b")} == {first}
    assert not caplog.records
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    with caplog.at_level(logging.WARNING):
        copied = open_in("copy")
    (told,) = [record.getMessage() for record in caplog.records]
    here = f"{tmp_path}/copy was copied from {tmp_path}/b, which goes on as the W&B run {first}"
    assert told == f"{here}: the copy is a run of its own, {copied}."
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert [open_in("b"), open_in("moved"), open_in("b")] == [first, copied, first] and copied != first
    assert len(caplog.records) == 1


def test_an_id_that_knows_no_place_goes_on(fake_wandb, tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run-id.txt").write_text("0a1b2c3d\n")
    module = fake_wandb()
    WandbLog(tmp_path, CONFIG)
    assert module.settings[0]["id"] == "0a1b2c3d"
