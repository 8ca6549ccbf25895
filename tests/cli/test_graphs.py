"""``ood-nc run`` on graphs, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.cli import main
from ood_nc.evaluation import Results, compare
from ood_nc.graphs.training import train_graphs
from tests.helpers.graph_runs import CPU, TINY, tiny


@pytest.mark.slow
def test_the_command_writes_a_run_that_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        word
        for key, value in TINY.items()
        for word in (f"--{key}", ",".join(value) if isinstance(value, list) else str(value))
    ]
    words = ["run", "--config", CPU, "--output", str(tmp_path), *flags]
    for seed in (0, 1):
        assert main([*words, "--experiment", f"tiny-seed{seed}", "--seed", str(seed)]) == 0
    printed = capsys.readouterr().out
    assert "overlap, network" in printed and "bethe_hessian@128" in printed and "exact recovery margin" in printed
    runs = [tmp_path / f"tiny-seed{seed}" for seed in (0, 1)]
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "results.json", "results.parquet", "report.html"}
    assert expected <= {path.name for path in runs[0].iterdir()}
    results = [Results.load(run) for run in runs]
    detection = results[0].select(kind="detection", metric="auroc", dataset="swapped_block")
    assert {row["method"] for row in detection} == {
        "energy", "energy_propagated", "knn", "knn_propagated", "gmm", "gmm_propagated", "ash_p",
    }  # fmt: skip
    (refused,) = [row for row in detection if row["value"] is None]
    assert refused["method"] == "ash_p" and "non-negative" in refused["reason"]
    assert compare(results, replicates=10)["differences"]
    assert main(["compare", *map(str, runs), "--output", str(tmp_path / "comparison")]) == 0
    curve = [
        line
        for line in map(json.loads, (runs[0] / "metrics.jsonl").read_text().splitlines())
        if line["split"] == "collapse"
    ]
    assert [line["epoch"] for line in curve] == [0, 1, 2] and "collapse/layer002.aggregated/nc1_pinv" in curve[0]


def test_other_commands_say_what_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", CPU, "--output", str(tmp_path)]) == 2
    assert "use ood-nc run" in capsys.readouterr().err
    train_graphs(tiny(tmp_path))
    assert main(["evaluate", str(tmp_path / "tiny")]) == 2
    assert "is a run on graphs" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_make_a_group(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny(tmp_path).to_yaml())
    words = ["run", "--config", str(tmp_path / "tiny.yaml"), "--seeds", "0", "1"]
    assert main(words) == 0 and main([*words, "--resume"]) == 0
    assert (tmp_path / "tiny" / "report.html").exists()
    (overlap,) = [
        row
        for row in json.loads((tmp_path / "tiny" / "seeds.json").read_text())["seeds"]
        if row["metric"] == "overlap" and row["method"] == "head"
    ]
    assert set(overlap["by_seed"]) == {"0", "1"}
