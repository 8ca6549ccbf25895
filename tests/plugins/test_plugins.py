"""A plug-in of every kind, one file each, installed as a package of its own, works by its name everywhere."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ood_nc.cli import main
from ood_nc.collapse import check_collapse_metric
from ood_nc.data import check_source
from ood_nc.detection import create_detector
from ood_nc.detection.testing import check_detector
from ood_nc.losses import check_loss
from ood_nc.scores import check_metric
from ood_nc.tracking import check_tracker
from ood_nc.transfer import check_probe
from tests.plugins.installed import PACKAGES, install, install_all

CHECKS = {
    "nearest_distance": lambda name: check_detector(type(create_detector(name))),
    "spread": check_loss,
    "stripes/grey": check_source,
    "variance_ratio": check_collapse_metric,
    "nearest_sample": check_probe,
    "csv": check_tracker,
    "share_below": check_metric,
}
LISTED = (
    ("detectors", "nearest_distance"),
    ("losses", "spread"),
    ("sources", "stripes"),
    ("metrics", "variance_ratio"),
    ("metrics", "share_below"),
    ("probes", "nearest_sample"),
    ("trackers", "csv"),
)
TRAIN = [
    *("train", "--config", "quickstart", "--model", "test_vit", "--img-size", "32", "--epochs", "1", "--limit", "20"),
    *("--taps", "encoder,projector", "-j", "0", "--device", "cpu", "--quiet", "--experiment", "run"),
    *("--loss.terms", "[{name: spread, tap: projector, weight: 0.1, kwargs: {sharpness: 2.0}}]"),
    *("--tracking.trackers", "csv"),
]
EVALUATE = [
    *("--eval-limit", "20", "--bootstrap", "0", "--detectors", "nearest_distance", "--probes", "nearest_sample"),
    *("--ood", "stripes=stripes/grey", "--transfer", "stripes=stripes/grey", "--quiet"),
]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    folder = install_all(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for package in PACKAGES:
        sys.modules.pop(package.name, None)


@pytest.mark.parametrize("name", list(CHECKS))
def test_each_holds_to_the_protocol_of_its_kind(installed, name):
    CHECKS[name](name)


@pytest.mark.parametrize(("kind", "name"), LISTED)
def test_each_is_listed(installed, capsys, kind, name):
    assert main(["list", kind, name]) == 0
    assert name in capsys.readouterr().out


def test_a_broken_one_is_listed_with_its_fault(installed, monkeypatch, capsys):
    install(installed, "broken_loss", "import no_such_module", {"ood_nc.losses": "broken = broken_loss:loss"})
    monkeypatch.syspath_prepend(installed)
    assert main(["list", "losses"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "entropy" in out and "cannot be imported: ModuleNotFoundError" in out


def check_run(directory: Path) -> None:
    """The run's files hold the numbers of every plug-in."""
    with (directory / "numbers.csv").open(encoding="utf-8") as file:
        names = [row[1] for row in csv.reader(file)]
    assert "spread/projector" in names and "best_accuracy" in names
    rows = pq.read_table(directory / "results.parquet").to_pylist()
    found = {key: {row[key] for row in rows if row["value"] is not None} for key in ("dataset", "method", "metric")}
    assert "stripes" in found["dataset"] and {"variance_ratio", "share_below"} <= found["metric"]
    assert {"nearest_distance", "nearest_sample"} <= found["method"]


def test_all_in_one_run(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--output", "runs"]) == 0
    assert main(["evaluate", "runs/run", *EVALUATE]) == 0
    check_run(tmp_path / "runs" / "run")


@pytest.mark.slow
def test_all_from_a_shell(installed, tmp_path):
    paths = os.pathsep.join([str(installed), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    for arguments in ([*TRAIN, "--output", "runs"], ["evaluate", "runs/run", *EVALUATE]):
        command = [sys.executable, "-m", "ood_nc", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    check_run(tmp_path / "runs" / "run")
