"""The door: commands by name, exit codes, and what importing costs."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from ood_nc import cli
from ood_nc.cli import command, main
from ood_nc.errors import UserError

GRAPHS = str(Path(__file__).parents[2] / "configs" / "graphs" / "cpu-32-layers.yaml")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes `ood-nc report` raise what it is given."""

    def install(error: BaseException) -> None:
        def execute(_: object) -> int:
            raise error

        broken = command.Command("report", "s", "e", cli.report.COMMAND.add_arguments, execute)
        monkeypatch.setitem(cli._COMMANDS, "report", broken)

    return install


TAKE_A_PATH = (
    "train --config",
    "train --model.name test_vit --data.train",
    "evaluate",
    "evaluate --features",
    "evaluate --model test_vit --id",
    "fit --model test_vit --id photos -o d.safetensors --checkpoint",
    "score d.safetensors",
    "report",
    "compare a",
    "figures",
    "suites check",
    "sweep",
    "private-head --epsilon 1 --delta 1e-5 -o h.safetensors --features",
)
"""Commands that lack the path that they end in."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train", "--lrr", "3"], "Did you mean '--lr'"),
        (["train", "--loss.entropy_weigth", "0.1"], "Did you mean 'entropy_weight'"),
        (["train", "--config", "quickstrat"], "Did you mean 'quickstart'"),
        (["train", "--config", "nowhere.yaml"], "No configuration file nowhere.yaml"),
        (["train", "--model", "resnet81", "--print-config", "--epochs", "x"], "train.epochs"),
        (["train", "--detectors", "energi"], "Did you mean 'energy'"),
        (["train", "--probes", "lineer"], "Did you mean 'linear'"),
        (["train", "--ensembles", "best"], "'best'"),
        (["train", "--protocols", "stric"], "Did you mean 'strict'"),
        (["train", "--suite", "cifra"], "No suite 'cifra'"),
        (["train", "--suite", "openood-cifar10", "--choose", "nosuch"], "'nosuch', which is no OOD set of the suite"),
        (["run", "--detectors", "energi"], "Did you mean 'energy'"),
        (["run", "--detectors", "energi", "--seeds", "0", "1"], "Did you mean 'energy'"),
        (["run", "--config", GRAPHS, "--detectors", "energi"], "Did you mean 'energy'"),
        (["evaluate"], "needs a run directory, or --model"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--model", "resnet18"], "give one of them"),
        (["evaluate", "--model", "resnet18"], "--id FOLDER"),
        (["report"], "RUN"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "one"], "two run directories"),
        (["list", "taps"], "list taps resnet18"),
        (["list", "detectors", "nothing*"], "No detectors match 'nothing*'"),
        (["list", "suites", "a", "b"], "takes one glob"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("ood-nc: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000, "~nobodyatall/x", "nowhere/x"], ids=["x", "a", "home", "no"])
@pytest.mark.parametrize("words", TAKE_A_PATH)
def test_a_path_that_cannot_be_is_a_mistake(
    words: str, path: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), path]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("ood-nc: ")
    assert "fault" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt("3 of 4 epochs are kept"), 130, "interrupted. 3 of 4 epochs are kept"),
        (OSError(errno.ENOSPC, "full", "out.bin"), 2, "no space left on the disk (out.bin)"),
        (OSError(errno.EIO, "broken"), 1, "fault: OSError"),
        (ZeroDivisionError("a\nb"), 1, "fault: ZeroDivisionError: a b"),
        (UserError("no class 'a\nb'"), 2, "no class 'a b'"),
    ],
)
def test_exit_codes(failing, error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    failing(error)
    assert main(["report", "x"]) == code
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_debug_shows_the_traceback(failing, capsys: pytest.CaptureFixture[str]) -> None:
    failing(ZeroDivisionError("x"))
    assert main(["report", "x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "quickstart" in capsys.readouterr().out
    assert main(["--help"]) == 0


def test_the_version_names_the_faiss_wheel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert "faiss-" in capsys.readouterr().out


def test_importing_the_package_is_light_and_needs_no_faiss() -> None:
    program = (
        "import sys; sys.modules['faiss'] = None; import ood_nc, ood_nc.collapse, ood_nc.detection as d;"
        "import numpy as np; x = np.random.default_rng(0).normal(size=(20, 3));"
        "d.create_detector('msp').fit(x, logits=x).score(x, logits=x);"
        "assert not {'timm', 'wandb', 'accelerate'} & set(sys.modules), 'heavy import'\n"
        "try: d.create_detector('knn').fit(x)\n"
        "except ImportError as error: assert 'faiss-cpu' in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
