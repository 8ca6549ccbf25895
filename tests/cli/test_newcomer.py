"""A newcomer's way: a checkpoint of their own, a folder of photographs, a folder of junk, and the README."""

from __future__ import annotations

import argparse
import csv
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from ood_nc import Detector
from ood_nc.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")


def commands() -> list[list[str]]:
    """The three commands that the README gives for a checkpoint of one's own."""
    lines = [line for line in README.splitlines() if line.startswith("    ood-nc") and "mine" in line]
    return [shlex.split(line)[1:] for line in lines]


def photographs(folder: Path, n: int, seed: int) -> None:
    """Pictures of one colour and texture each, of several sizes, as JPEG."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, 3)
    for index in range(n):
        shape = (int(rng.integers(60, 120)), int(rng.integers(60, 120)), 3)
        pixels = np.clip(colour + rng.normal(0, 40, shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"IMG_{index:03d}.jpg")


def write_checkpoint(kind: str) -> str:
    """A fine-tuned five-class network as its tool writes it."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=5)
    state = network.state_dict()
    if kind == "torchvision":
        state = torchvision.models.resnet18(num_classes=5).state_dict()
    if kind == "safetensors":
        save_file(state, "mine.safetensors")
        return "mine.safetensors"
    content: dict[str, Any] = {
        "timm": {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": state,
            "args": argparse.Namespace(lr=0.1),
            "metric": 0.9,
        },
        "torchvision": state,
        "lightning": {
            "state_dict": {f"model.{key}": value for key, value in state.items()},
            "pytorch-lightning_version": "2.5.0",
            "hyper_parameters": {"lr": 0.1},
        },
        "ddp": {"model": {f"module.{key}": value for key, value in state.items()}, "best": np.float64(0.9)},
    }[kind]
    torch.save(content, "mine.pth")
    return "mine.pth"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm", "torchvision", "lightning", "ddp", "safetensors"])
def test_three_commands_lead_from_a_checkpoint_to_scores(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(FLOWERS):
        photographs(Path("photos") / name, 20, seed)
    photographs(Path("junk"), 12, 99)
    file = write_checkpoint(kind)
    given = commands()
    assert [words[0] for words in given] == ["evaluate", "fit", "score"]
    for words in given:
        assert main([file if word == "mine.pth" else word for word in words]) == 0
    detector = Detector.load("mine-detector.safetensors")
    assert detector.model.class_names == FLOWERS
    with open("mine.csv", newline="") as rows:
        scored = list(csv.DictReader(rows))
    assert len(scored) == 12 and {row["prediction"] for row in scored} <= set(FLOWERS)
    assert (tmp_path / "runs/evaluate-resnet18/results.parquet").is_file()


def test_the_readme_names_every_flag_of_the_way() -> None:
    flags = {word for words in commands() for word in words if word.startswith("-")}
    assert len(commands()) == 3 and flags == {"--model", "--checkpoint", "--id", "--ood", "-o"}
    for flag in flags:
        assert re.search(rf"(^|\s|`){re.escape(flag)}\b", README)
