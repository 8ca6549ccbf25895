"""The figures of every layer's input, from rows and lines that hold what they must show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.documents import COLUMNS
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.figures import Figure, build, plotly_figure, write_figures
from tests.helpers.report_runs import build_run, write_document

LAYERS = ["backbone.fc1", "backbone.fc2", "head"]


def row(tap: str, depth: int | None, metric: str, value: float, dataset: str = "id_train") -> dict[str, object]:
    known = {"tap": tap, "depth": depth, "kind": "layer", "metric": metric, "value": value, "dataset": dataset}
    return {**dict.fromkeys(COLUMNS), "run": "run", "seed": 0, "protocol": "strict", "group": "id", **known}


@pytest.fixture
def followed(tmp_path: Path) -> list[Run]:
    """A run whose layers' inputs were followed over two epochs."""
    return read_runs([follow(tmp_path, "run")])


def follow(folder: Path, name: str, **identity: object) -> Path:
    """A run of that name, followed likewise."""
    directory = build_run(folder / name, name)
    document = json.loads((directory / "results.json").read_text())
    for depth, layer in enumerate(LAYERS):
        document["rows"].append(row(layer, depth, "within_share", 0.5 / (depth + 1)))
        document["rows"] += [row(layer, depth, "ncc_accuracy", 0.9, name) for name in ("id_train", "id_test")]
    document["rows"].append(row("network", None, "effective_depth", 2.0))
    document["identity"] |= identity
    write_document(directory, document)
    with (directory / "metrics.jsonl").open("a") as file:
        for epoch in (1, 5):
            keys = {f"layers/{layer}/id_train/within_share": epoch * 0.1 for layer in LAYERS}
            file.write(json.dumps({"step": 10**6 + epoch, "epoch": epoch, "split": "layers", **keys}) + "\n")
    return directory


def named(runs: list[Run], name: str) -> Figure:
    return next(one for one in build(runs) if one.name == name)


def test_layers_stand_in_the_order_in_which_they_run(followed: list[Run]) -> None:
    share, accuracy = named(followed, "layers").panels
    assert share.series[0].x == ["0", "1", "2"] and share.series[0].labels == LAYERS
    assert share.series[0].y == [0.5, 0.25, pytest.approx(0.5 / 3)]
    assert [one.y for one in accuracy.series] == [[90.0] * 3] * 2  # train and test, in percent
    assert accuracy.note == "effective depth 2"


def test_each_data_set_and_architecture_has_panels_of_its_own(tmp_path: Path) -> None:
    sets = json.loads((build_run(tmp_path / "plain", "plain") / "results.json").read_text())["identity"]["datasets"]
    of = {
        name: {**sets, "id_train": {**sets["id_train"], "source": f"{name}.npz::train"}} for name in ("mnist", "svhn")
    }
    given = [("a", "mlp", "mnist"), ("b", "mlp", "mnist"), ("c", "vgg", "mnist"), ("d", "mlp", "svhn")]
    runs = [follow(tmp_path, name, model=model, datasets=of[source]) for name, model, source in given]
    figure = named(read_runs([*runs, tmp_path / "plain"]), "layers")
    kinds = ["mlp on mnist.npz", "vgg on mnist.npz", "mlp on svhn.npz"]
    assert [panel.title.partition(": ")[2] for panel in figure.panels] == 2 * kinds
    assert [[one.name for one in panel.series] for panel in figure.panels[:3]] == [["a", "b"], ["c"], ["d"]]
    assert figure.columns == 3


def test_a_heat_map_has_a_row_an_epoch(followed: list[Run], tmp_path: Path) -> None:
    figure = named(followed, "courses")
    (panel,) = figure.panels
    assert panel.is_map and [one.name for one in panel.series] == ["1", "5"]
    (trace,) = plotly_figure(figure)["data"]
    assert trace["type"] == "heatmap" and trace["y"] == ["1", "5"]
    assert trace["z"] == [[pytest.approx(0.1)] * 3, [pytest.approx(0.5)] * 3]
    pytest.importorskip("matplotlib")
    files = {path.suffix: path for path in write_figures([figure], tmp_path)}
    assert "Within-class share,5,head,2,0.5," in files[".csv"].read_text()
    assert files[".svg"].stat().st_size > 1000


def test_a_run_that_was_not_followed_has_neither(tmp_path: Path) -> None:
    runs = read_runs([build_run(tmp_path / "run", "run")])
    assert not {"layers", "courses"} & {one.name for one in build(runs)}
