from __future__ import annotations

import logging

import pytest

from ood_nc.errors import UserError
from ood_nc.tracking import TRACKERS, LocalLog, open_trackers, read_log

CONFIG = {"tracking": {}}


class Recorder:
    def __init__(self, fail_at=None):
        self.lines, self.summary, self.fail_at = [], None, fail_at

    def log(self, values, step):
        if step == self.fail_at:
            raise ConnectionError("no\nroute")
        self.lines.append((dict(values), step))

    def finish(self, summary):
        self.summary = dict(summary)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(TRACKERS, "_entries", dict(TRACKERS._entries))


def test_local_and_given(tmp_path):
    recorder = Recorder()
    local, other = open_trackers(["local", recorder, "local"], tmp_path, CONFIG)
    assert isinstance(local, LocalLog)
    for tracker in (local, other):
        tracker.log({"loss": 1.0}, 3)
        tracker.finish({"best": 2})
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 1.0}]
    assert (recorder.lines, recorder.summary) == ([({"loss": 1.0}, 3)], {"best": 2})


def test_by_name_with_directory_settings_and_step(tmp_path):
    seen = []
    TRACKERS.add(
        "recorder", lambda directory, config, last_step: seen.append((directory, config, last_step)) or Recorder()
    )
    open_trackers(["recorder"], tmp_path, CONFIG, last_step=7)
    assert seen == [(tmp_path, CONFIG, 7)]


def test_a_tracker_that_fails_is_dropped_with_one_warning(tmp_path, caplog):
    recorder = Recorder(fail_at=2)
    (tracker,) = open_trackers([recorder], tmp_path, CONFIG)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            tracker.log({}, step)
        tracker.finish({})
    assert [record.getMessage() for record in caplog.records] == [
        "The tracker Recorder failed, the run goes on without it: ConnectionError: no"
    ]
    assert (recorder.lines, recorder.summary) == ([({}, 1)], None)


def test_a_tracker_that_cannot_open(tmp_path, caplog):
    def broken(directory, config, last_step):
        raise OSError("no")

    TRACKERS.add("broken", broken)
    (tracker,) = open_trackers(["broken"], tmp_path, CONFIG)
    tracker.log({}, 1)
    tracker.finish({})
    assert len(caplog.records) == 1

    def refusing(directory, config, last_step):
        raise UserError("set tracking.url")

    TRACKERS.add("refusing", refusing)
    with pytest.raises(UserError, match=r"set tracking\.url"):
        open_trackers(["refusing"], tmp_path, CONFIG)


def test_a_full_disk_stops_the_run(tmp_path):
    (local,) = open_trackers(["local"], tmp_path, CONFIG)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="Cannot write"):
        local.log({}, 1)


def test_unknown(tmp_path):
    with pytest.raises(UserError, match=r"Unknown tracker 'wandbb'\. Did you mean 'wandb'"):
        open_trackers(["wandbb"], tmp_path, CONFIG)
