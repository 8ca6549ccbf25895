"""The pages of docs/howto, each from top to bottom in a folder with what a reader brings: every step as it stands.

What differs from a reader's shell: commands that train get ``TINY`` behind their words, a sweep is cut to its first two
trials, W&B is offline (tests/conftest.py), and ``pip install .`` goes into a folder of the test, without a network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from ood_nc.cli import main
from ood_nc.cli.command import find_config
from ood_nc.data import open_dataset
from tests.helpers.cli import SMALL_EVALUATION

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
STEP = re.compile(
    r"^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<block>.*?)^```"
    r"|^    (?P<command>(?:ood-nc|torchrun|pip|pytest) [^\n]*?)(?: +#[^\n]*)?$",
    re.M | re.S,
)
TINY = [*SMALL_EVALUATION[2:], "--data.val-fraction", "0.4"]
LEFT = {
    "seeds": ["runs/controlled/controlled-seed2/results.json", "runs/comparison.html", "runs/tracked/results.json"],
    "train": ["runs/comparison.html", "mine.html", "mine-detector.safetensors"],
    "own-checkpoint": ["mine-detector.safetensors", "mine.csv"],
    "which-detector": ["runs/trial/report.html", "knn.safetensors"],
    "thresholds": ["m.safetensors", "scores.csv"],
    "serving": ["scores.parquet", "m.onnx"],
    "cluster": ["runs/trial2/checkpoints/last.safetensors"],
    "features": ["features.safetensors", "runs/evaluate-features/results.parquet"],
    "plugins": ["norm.safetensors"],
    "migrate": [],
}


def pictures(folder: Path, n: int, seed: int) -> None:
    """Photographs, as it were: a colour and a texture."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, 3)
    for index in range(n):
        pixels = np.clip(colour + rng.normal(0, 40, (80, 100, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"IMG_{index:03d}.jpg")


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, a checkpoint with its photographs, and images to judge."""
    folder = tmp_path_factory.mktemp("brought")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "--config", "quickstart", *TINY, "--experiment", "trial", "--quiet"]) == 0
    for seed, name in enumerate(("daisy", "rose", "tulip")):
        pictures(folder / "photos" / name, 20, seed)
    pictures(folder / "junk", 12, 99)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), folder / "mine.pth")
    (folder / "incoming").mkdir()
    digits = open_dataset("bundled/digits-near")
    for index, name in enumerate(["a.jpg", "b.jpg", *(f"incoming/{index}.png" for index in range(6))]):
        digits.load(index).save(folder / name)
    return folder


def steps(page: Path) -> Iterator[re.Match[str]]:
    yield from STEP.finditer(re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")))


def run(command: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """One line of a page."""
    program, *words = shlex.split(command)
    if program in ("ood-nc", "torchrun") and {"run", "train"} & set(words) and "--resume" not in words:
        words += TINY
    if program == "ood-nc":
        if words[0] == "sweep":
            first_trials(words[1], folder)
        assert main(words) == 0, command
        return
    if program == "pip":
        own = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target", "site"]
        words = [words[0], *own, *words[1:]]
        patch.syspath_prepend(folder / "site")
    module = {"torchrun": "torch.distributed.run"}.get(program, program)
    paths = os.pathsep.join([str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def first_trials(name: str, folder: Path) -> None:
    """Put a short sweep where it is found before the one that ships."""
    sweep = yaml.safe_load(find_config(name, "sweep", "sweeps").read_text(encoding="utf-8"))
    varied = next(iter(sweep["parameters"]))
    sweep["parameters"] = {varied: {"values": sweep["parameters"][varied]["values"][:2]}}
    sweep["command"] = [*(word for word in sweep["command"] if word != "${args}"), *TINY, "${args}"]
    (folder / name).write_text(yaml.safe_dump(sweep), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(
    page: Path, brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(brought, folder)
    monkeypatch.chdir(folder)
    for step in steps(page):
        if step["command"]:
            run(step["command"], folder, monkeypatch)
        elif step["title"]:
            (folder / step["title"]).write_text(step["block"], encoding="utf-8")
        elif step["kind"] == "python":
            exec(step["block"], {"__name__": "page"})
    assert [name for name in LEFT[page.stem] if not (folder / name).exists()] == []
    sys.modules.pop("mine", None)


def test_every_page_but_the_table_has_steps_and_every_step_is_seen() -> None:
    assert {page.stem for page in PAGES} == set(LEFT)
    for page in PAGES:
        commands = [step["command"] for step in steps(page) if step["command"]]
        written = re.findall(r"^    (?:ood-nc|torchrun|pip|pytest) ", page.read_text(encoding="utf-8"), re.M)
        assert len(commands) == len(written) and (commands or page.stem == "migrate")
