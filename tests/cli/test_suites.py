from __future__ import annotations

import json
from pathlib import Path

import pytest

from ood_nc.cli import main
from ood_nc.config import DataConfig
from ood_nc.data import load_data, load_suite
from tests.helpers.pictures import picture, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ID images in two splits, OOD images in classes and in a flat folder."""
    folder, seed = tmp_path / "data", 0
    for name in (
        "birds/train/crow",
        "birds/train/wren",
        "birds/val/crow",
        "birds/val/wren",
        "boats/ferry",
        "boats/yacht",
        "sky",
    ):
        save(folder / name, (picture(seed + index, (48, 40)) for index in range(12)))
        seed += 100
    return folder


def made(root: Path) -> Path:
    path = root.parent / "mine.yaml"
    words = ["birds", "near:ships=boats", "sky", "--data-dir", str(root), "-o", str(path)]
    assert main(["suites", "make", *words]) == 0
    return path


def test_a_suite_is_made_checked_and_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(root)
    assert f"ood-nc suites check {path} --data-dir {root}" in capsys.readouterr().out
    assert load_suite(str(path))["ood"] == {
        "ships": {"source": "boats", "group": "near"},
        "sky": {"source": "sky", "group": "far"},
    }
    report = root.parent / "audit.json"
    assert main(["suites", "check", str(path), "--data-dir", str(root), "-o", str(report)]) == 0
    said = capsys.readouterr().out
    assert "nothing to note" in said and "AUROC of cues alone, against ID test" in said
    document = json.loads(report.read_text())
    named = [(one["name"], one["group"], one["n"]) for one in document["sets"]]
    assert named == [
        ("ID train", "id", 24), ("ID test", "id", 24), ("ships", "near", 24), ("sky", "far", 12),
        ("ships/train", "transfer", 19), ("ships/test", "transfer", 5),
    ]  # fmt: skip
    data = load_data(DataConfig(root=str(root), train="birds::train", test="birds::val", suite=str(path)))
    assert set(data.ood) == {"ships", "sky"} and set(data.transfer) == {"ships"}


def test_what_is_changed_or_missing_since_is_said_and_is_an_error(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(root)
    save(root / "sky", [picture(9999, (48, 40))])
    for name in ("ferry", "yacht"):
        for file in (root / "boats" / name).iterdir():
            file.unlink()
    capsys.readouterr()
    assert main(["suites", "check", str(path), "--data-dir", str(root)]) == 2
    said, error = capsys.readouterr()
    assert "sky: changed: its names, labels or files are not those that the suite was made from" in said
    assert "ships: empty: No images in " in said
    assert error.strip() == ("ood-nc: 4 of 6 sets are not as they should be: ships, sky, ships/train, ships/test.")


def test_absent_sets_of_a_suite_that_ships_say_where_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suites", "check", "openood-cifar10", "--data-dir", str(tmp_path)]) == 2
    said, error = capsys.readouterr()
    assert said.count("Get it: github.com/Jingkang50/OpenOOD") == 9
    assert "9 of 9 sets" in error and len(error.splitlines()) == 1


def test_the_data_of_a_run_is_checked_into_the_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"data: {{root: {root}, train: 'birds::train', test: 'birds::val', ood: {{sky: sky}}}}"
    )
    assert main(["suites", "check", str(run), "--eval-limit", "10"]) == 0
    document = json.loads((run / "audit.json").read_text())
    assert [(one["name"], one["n"]) for one in document["sets"]] == [("ID train", 24), ("ID test", 10), ("sky", 10)]
    assert "audit: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "needs a suite, a run or --config"),
        (["check", "a", "b"], "takes one suite or run"),
        (["check", "openod-cifar10"], "Did you mean 'openood-cifar10'"),
        (["make", "birds"], "at least one OOD set, and -o"),
        (["make", "birds", "sky", "-o", "mine.json"], "A suite is a YAML file: -o mine.yaml"),
        (["make", "birds", "sky", "more/sky", "-o", "mine.yaml"], "Two OOD sets are called 'sky'"),
        (["make", "sky", "birds", "-o", "mine.yaml"], "has no classes"),
        (["destroy"], "invalid choice: 'destroy'"),
    ],
)
def test_mistakes_are_one_line(words, message, root: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    assert main(["suites", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_runs_on_graphs_and_on_tables_of_label_sets_are_not_taken_for_broken_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("graphs: {}")
    assert main(["suites", "check", str(tmp_path)]) == 2
    assert "is a run on graphs" in capsys.readouterr().err
    table = tmp_path / "table.yaml"
    terms = "loss: {task: none, entropy_weight: 0, terms: [{name: pick_all_label, weight: 1.0}]}"
    table.write_text("multilabel: {}\ndata: {train: list.csv}\n" + terms)
    assert main(["suites", "check", "--config", str(table)]) == 2
    assert "is a run on a table of label sets" in capsys.readouterr().err
