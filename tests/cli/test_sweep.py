from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ood_nc.cli import main
from ood_nc.cli.sweep import run_sweep, trial_name
from ood_nc.cli.sweep_file import Sweep
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.files import write_text

TINY = """
name: tiny
method: grid
parameters:
  loss.entropy_weight: {values: [0.0, 0.1]}
  train.epochs: {value: 1}
  data.limit: {value: 12}
  data.eval_limit: {value: 12}
  train.collapse_interval: {value: 0}
  evaluation.bootstrap: {value: 0}
  evaluation.detectors: {value: energy}
  evaluation.probes: {value: nearest_mean}
command: ["${env}", ood-nc, run, --config=quickstart, --log-wandb, "${args}"]
"""


@pytest.mark.slow
def test_a_sweep_ends_with_its_table_and_goes_on_where_it_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    words = ["sweep", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path), "--jobs", "2"]
    assert main(words) == 0
    out = capfd.readouterr().out
    assert f"table and figure: {tmp_path / 'tiny'}" in out and "| 0.1 | 1 |" in out
    rows = list(csv.DictReader((tmp_path / "tiny" / "sweep.csv").open()))
    assert [row["loss.entropy_weight"] for row in rows] == ["0.0", "0.1"]
    assert all(0 <= float(row["mean FPR95 (ID positive) by energy, %"]) <= 100 for row in rows)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*/report.html")}
    assert len(written) == 2 and not list(tmp_path.rglob("wandb"))
    first, second = written
    second.unlink()
    assert main(words) == 0
    assert first.stat().st_mtime_ns == written[first] and second.is_file()


def test_a_configuration_that_has_changed_is_not_passed_over(tmp_path, monkeypatch) -> None:
    """Its runs had their reports, so the table of the old ones was shown for the new configuration."""
    file, folder = tmp_path / "mine.yaml", tmp_path / "tiny"
    sweep = Sweep("tiny", ["optim.lr"], [{"optim.lr": 0.1}], ["run", f"--config={file}", "--log-wandb", "${args}"])
    directory, asked = folder / trial_name(sweep, sweep.settings[0]), []
    monkeypatch.setattr("ood_nc.cli.sweep.work", lambda pending, *_, **__: asked.append(list(pending)))
    monkeypatch.setattr("ood_nc.report.write_sweep", lambda *_: folder)
    file.write_text("train: {epochs: 3}")
    write_text(directory / "config.yaml", load(file, {"optim.lr": 0.1, "experiment": directory.name}).to_yaml())
    write_text(directory / "report.html", "")
    for text in (
        "train: {epochs: 3}",
        "train: {epochs: 4}",
        "{train: {epochs: 3}, data: {ood: {t: bundled/textures}}}",
    ):
        file.write_text(text)
        run_sweep(sweep, folder)
    assert asked == [[], [directory.name], [directory.name]]
    file.write_text("{train: {epochs: 3}, optim: {opt: sgd}}")
    with pytest.raises(UserError, match=r"optim.opt was 'adamw' in .* and is 'sgd' now: change it back, or give"):
        run_sweep(sweep, folder)
