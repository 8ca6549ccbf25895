"""The scripts for shells, run by the shells that there are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ood_nc import cli

pytest.importorskip("shtab")


def printed(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["--print-completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_completes_commands_options_keys_choices_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What readline does at a key press: the function that `complete` registered, with the line in its variables.
    probe = """
    source ood-nc.bash
    completed() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
        "$(complete -p ood-nc | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" ood-nc "${COMP_WORDS[COMP_CWORD]}"
        echo "${COMPREPLY[@]}"
    }
    completed ood-nc qui; completed ood-nc train --optim.weight; completed ood-nc train --weight-d
    completed ood-nc list dete; completed ood-nc fit --det; completed ood-nc report my
    """
    (tmp_path / "ood-nc.bash").write_text(printed("bash", capsys))
    (tmp_path / "my-run").mkdir()
    done = subprocess.run(["bash", "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    wanted = ("quickstart", "--optim.weight_decay", "--weight-decay", "detectors", "--detector", "my-run")
    for word, line in zip(wanted, done.stdout.splitlines(), strict=True):
        assert word in line.split() and all(one.startswith(word) for one in line.split()), done.stderr


@pytest.mark.parametrize("shell", ["zsh", "bash"])
def test_other_shells_have_one(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(shell, capsys)
    assert all(word in text for word in (*cli._COMMANDS, "--optim.lr"))
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        assert subprocess.run([shell, "-n", str(tmp_path / "script")], check=False).returncode == 0


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--print-completion", "nu"]) == 2
    assert "No completion for 'nu': there is bash, zsh" in capsys.readouterr().err
