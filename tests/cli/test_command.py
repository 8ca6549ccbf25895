"""What every command shares: help, and configurations as they are resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from ood_nc.cli import command, main
from ood_nc.config import load
from ood_nc.errors import UserError


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


@pytest.mark.parametrize("path", ["configs/graphs/cora.yaml", "graphs/cora"])
def test_a_file_that_ships_is_found_from_any_folder(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.find_config(path).read_text().startswith("#") and command.find_config(path).name == "cora.yaml"
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "cora").write_text("one of my own")
    assert command.find_config("graphs/cora").read_text() == "one of my own"


def test_a_name_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"No configuration file graphs/cra.yaml. Did you mean 'cora'"):
        command.find_config("graphs/cra.yaml")
    with pytest.raises(UserError, match=r"No sweep 'alpa'. Did you mean 'alpha'"):
        command.find_config("alpa", "sweep", "sweeps")
