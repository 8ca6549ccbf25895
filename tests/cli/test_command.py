"""What every command shares: help, and configurations as they are resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from ood_nc.cli import command, main
from ood_nc.config import load


@pytest.mark.parametrize("name", ["quickstart", "train", "evaluate", "run", "report", "compare", "list"])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"ood-nc {name}" in text
    assert "examples:" in text


def test_print_config_gives_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "quickstart", "--lr", "0.5", "--print-config"]) == 0
    file = tmp_path / "c.yaml"
    file.write_text(capsys.readouterr().out)
    assert load(file).optim.lr == 0.5
    assert load(file).model.name == load(command.find_config("quickstart")).model.name
