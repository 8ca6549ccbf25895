"""The conformance check passes ours, and each way of breaking the protocol fails it."""

from __future__ import annotations

import pytest

from ood_nc.conformance import CheckError
from ood_nc.tracking import check_tracker


class Good:
    """Keeps what it is told."""

    def __init__(self, directory, config, last_step):
        self.step = last_step

    def log(self, values, step):
        self.step = step

    def finish(self, summary):
        assert summary["best_epoch"] == 1


def test_ours():
    check_tracker("local")
    check_tracker(Good)


class Strict(Good):
    """Takes numbers alone."""

    def log(self, values, step):
        sum(value for name, value in values.items() if name != "split")


class Increasing(Good):
    """Refuses a step twice."""

    def log(self, values, step):
        assert step > self.step
        self.step = step


class Emptying(Good):
    """Takes the values away."""

    def log(self, values, step):
        values.clear()


class Mute:
    """Logs nothing."""

    def __init__(self, directory, config, last_step):
        pass


class Fresh(Good):
    """Makes its folder."""

    def __init__(self, directory, config, last_step):
        (directory / "mine").mkdir()


@pytest.mark.parametrize(
    ("tracker", "seen"),
    [
        (Strict, "fails in a run from step 0 .TypeError"),
        (Increasing, "fails in a run from step 0 .AssertionError"),
        (Emptying, "changes the lines"),
        (Mute, "without a method log"),
        (Fresh, "cannot be opened at step 5 .FileExistsError"),
        (lambda *arguments: Good(*arguments), "has no docstring"),
    ],
)
def test_broken(tracker, seen):
    with pytest.raises(CheckError, match=f"^Tracker '.*' .*{seen}"):
        check_tracker(tracker)
