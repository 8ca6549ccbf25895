from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ood_nc.report import write_sweep
from ood_nc.report.documents import read_runs
from ood_nc.report.sweep import sweep_figure, sweep_table
from tests.helpers.report_runs import build_run, write_document


def test_a_row_a_setting_with_means_over_seeds(tmp_path: Path) -> None:
    settings = {
        build_run(tmp_path / f"r{alpha}{seed}", seed=seed, strength=1 - alpha, epochs=1): {
            "loss.entropy_weight": alpha,
            "train.seed": seed,
        }
        for alpha in (0.0, 0.5)
        for seed in (0, 1)
    }
    table = write_sweep("alpha", settings, tmp_path)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [(row["loss.entropy_weight"], row["seeds"]) for row in rows] == [("0.0", "2"), ("0.5", "2")]
    runs = read_runs(list(settings))
    wanted = {"kind": "detection", "dataset": "mean", "group": "ood", "method": "knn", "metric": "fpr95_id_positive"}
    values = [
        next(row["value"] for row in run.rows if wanted.items() <= row.items() and row["tap"] == "projector")
        for run in runs
    ]
    name = "mean FPR95 (ID positive) by knn, %"
    assert [float(row[name]) for row in rows] == pytest.approx([50 * sum(values[:2]), 50 * sum(values[2:])])
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 0.0 | 2 | ")
    panel = next(one for one in sweep_figure("alpha", runs, list(settings.values())).panels if one.title == name)
    (series,) = panel.series
    assert list(series.x) == ["0.0", "0.5"] and panel.x == "entropy_weight"
    assert series.low is not None and np.allclose(series.low[0], 100 * min(values[:2]))


def test_what_is_undefined_for_a_seed_has_no_mean_over_the_others(tmp_path: Path) -> None:
    paths = [build_run(tmp_path / f"r{seed}", seed=seed, epochs=1) for seed in (0, 1)]
    document = json.loads((paths[1] / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if (row["kind"], row["method"]) == ("detection", "knn"):
            row.update(value=None, low=None, high=None, reason="it failed")
    write_document(paths[1], document)
    settings = [{"seed": seed} for seed in (0, 1)]
    (row,) = sweep_table(runs := read_runs(paths), settings)
    assert row["seeds"] == "2" and row["mean FPR95 (ID positive) by knn, %"] is None
    assert row["mean FPR95 (ID positive) by energy, %"] is not None
    assert not any("knn" in panel.title for panel in sweep_figure("seeds", runs, settings).panels)


def test_seeds_over_other_sets_have_no_mean_and_settings_over_fewer_say_so(tmp_path: Path) -> None:
    settings = {
        build_run(tmp_path / f"r{alpha}{seed}", seed=seed, epochs=1): {"loss.entropy_weight": alpha, "seed": seed}
        for alpha in (0.0, 0.5)
        for seed in (0, 1)
    }
    name, paths = "mean FPR95 (ID positive) by knn, %", list(settings)

    def lose(path: Path) -> None:
        document = json.loads((path / "results.json").read_text(encoding="utf-8"))
        for row in document["rows"]:
            if (row["kind"], row["method"], row["dataset"]) == ("detection", "knn", "textures"):
                row.update(value=None, low=None, high=None, reason="it failed")
        write_document(path, document)

    lose(paths[2])
    table = sweep_table(read_runs(paths), list(settings.values()))
    assert table[0][name] is not None and table[1][name] is None
    lose(paths[3])
    table = sweep_table(runs := read_runs(paths), list(settings.values()))
    assert None not in (table[0][name], table[1][name])
    panel = next(one for one in sweep_figure("x", runs, list(settings.values())).panels if one.title == name)
    assert panel.note == "0.5 is without textures"
    lines = write_sweep("alpha", settings, tmp_path).read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["", f"{name}: 0.5 is without textures."]
