"""The two walks that CONTRIBUTING writes down are the way that a call takes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ood_nc
from ood_nc.detection import create_detector
from ood_nc.evaluation import evaluate
from tests.helpers.tiny import tiny_model, write_images

ROOT = Path(ood_nc.__file__).parent
PAGE = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def written(heading: str) -> list[tuple[str, str]]:
    """File and function of every step of a walk."""
    part = PAGE.split(heading, 1)[1].strip().split("\n\n", 1)[0]
    return re.findall(r"^\d+\. `(.+?)` `(.+?)`", part, re.MULTILINE)


def taken(action: Callable[[], object]) -> list[tuple[str, str]]:
    """File and function of every call inside the package, in order."""
    calls: list[tuple[str, str]] = []
    root = f"{ROOT}{os.sep}"

    def note(frame, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(root):
            calls.append((file.removeprefix(root).replace("\\", "/"), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls


def is_way(steps: list[tuple[str, str]], calls: list[tuple[str, str]]) -> bool:
    """Whether the calls hold the steps in this order."""
    rest = iter(calls)
    return all(step in rest for step in steps)


def from_a_folder(tmp_path: Path) -> None:
    for name in ("id/0", "id/1", "ood"):
        write_images(tmp_path / name, 8)
    given = {"id": str(tmp_path / "id"), "ood": {"x": str(tmp_path / "ood")}}
    evaluate(tiny_model(2), **given, detectors=["energy"], probes=[], bootstrap=0)


def from_features(_: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    features, head = torch.randn(30, 6, generator=rng), (torch.randn(3, 6, generator=rng), torch.ones(3))
    logits = features @ head[0].T + head[1]
    detector = create_detector("vim").fit(features, torch.arange(30) % 3, logits=logits, head=head)
    detector.score(features[:4], logits=logits[:4])


@pytest.mark.parametrize(
    ("heading", "action", "most"),
    [
        ("From a folder to a row of results:", from_a_folder, 12),
        ("From features to a ViM score:", from_features, 6),
    ],
)
def test_the_walk_is_the_way_that_a_call_takes(heading: str, action, most: int, tmp_path: Path) -> None:
    steps, calls = written(heading), taken(lambda: action(tmp_path))
    assert len({file for file, _ in steps}) == len(steps) <= most
    missing = [step for step in steps if step not in calls]
    assert not missing
    assert is_way(steps, calls) and not is_way(steps[::-1], calls)
