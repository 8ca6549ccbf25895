"""The local log."""

from __future__ import annotations

import json
import math
import random

import pytest

from ood_nc.errors import UserError
from ood_nc.tracking import LocalLog, read_log


def test_every_line_is_on_the_disk_at_once(tmp_path):
    log = LocalLog(tmp_path / "run" / "metrics.jsonl")
    log.log({"split": "train", "loss": 0.5}, 10)
    log.log({"split": "val", "accuracy": 1.0}, 20)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "split": "train", "loss": 0.5},
        {"step": 20, "split": "val", "accuracy": 1.0},
    ]
    log.finish({})


def test_numbers_that_json_lacks_become_null(tmp_path):
    LocalLog(tmp_path / "m.jsonl").log({"a": math.nan, "b": math.inf, "c": 1.0}, 1)

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 1, "a": None, "b": None, "c": 1.0}


def test_going_on_drops_later_steps_and_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    log = LocalLog(path)
    for step in (1, 2, 3, 4):
        log.log({"loss": float(step)}, step)
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    resumed = LocalLog(path, last_step=2)
    resumed.log({"loss": 30.0}, 3)
    assert [(line["step"], line["loss"]) for line in read_log(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_no_damage_to_the_log_stops_a_run_or_a_report(tmp_path):
    path, generator = tmp_path / "m.jsonl", random.Random(0)
    log = LocalLog(path)
    for step in range(1, 6):
        log.log({"epoch": step / 2, "split": "train", "loss": 0.25 * step}, step)
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 2, 8))):
            place = generator.randrange(len(damaged))
            damaged[place : place + generator.randrange(3)] = generator.randbytes(generator.randrange(3))
        path.write_bytes(damaged)
        resumed = LocalLog(path, last_step=3)
        resumed.log({"loss": 1.0}, 4)
        json.dumps(read_log(path), allow_nan=False)
        assert read_log(path)[-1] == {"step": 4, "loss": 1.0}


NO_LINES = [
    *('{"step": true}', '{"step": 1.5}', '{"step": 1, "epoch": "x"}', '{"step": 1, "split": [1]}', "[]", "null", ""),
    *("[" * 100_000, "9" * 5000, f'{{"step": {"9" * 5000}}}', f'{{"step": {"9" * 500}}}'),
]


@pytest.mark.parametrize("line", NO_LINES, ids=lambda line: line[:20])
def test_what_is_no_line_of_a_log_is_passed_over(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(f'{line}\n{{"step": 2, "loss": 1e999, "rate": {"9" * 500}}}\n')
    assert read_log(tmp_path / "m.jsonl") == [{"step": 2, "loss": None, "rate": None}]


def test_a_new_log_starts_empty(tmp_path):
    path = tmp_path / "m.jsonl"
    LocalLog(path).log({}, 1)
    LocalLog(path)
    assert path.read_text() == ""


def test_a_full_disk_is_one_line(tmp_path):
    log = LocalLog(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").unlink()
    (tmp_path / "m.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device") as error:
        log.log({"loss": 1.0}, 1)
    assert "\n" not in str(error.value)
