from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, compare, over_seeds, save_comparison
from ood_nc.evaluation.scores_table import scores_table
from ood_nc.scores import auroc, fpr_at_tpr
from tests.helpers.rows import accuracy_row, collapse_row, detection_row

SIZES = {"id": ("id_test", 400), "near": ("cifar", 200), "far": ("svhn", 300), "transfer": ("birds", 250)}


def scores_of(seed: int, tap: str, gap: float, accuracy: float, noise: float = 0.3) -> dict[str, dict[str, np.ndarray]]:
    """Scores whose hard part is the images' own, the same for every run; a run adds a little of its own."""
    images, run = np.random.default_rng(99), np.random.default_rng(seed)
    found = {}
    for group, (_, n) in SIZES.items():
        shift = gap if group == "id" else 0.0
        base, luck = images.normal(size=n), images.random(n)
        columns: dict[str, np.ndarray] = {}
        if group == "transfer":
            columns[f"correct/{tap}/linear"] = luck < accuracy
        else:
            columns[f"score/{tap}/energy"] = base + shift + noise * run.normal(size=n)
            columns[f"score/{tap}/msp"] = base + shift + noise * run.normal(size=n)
        if group == "id":
            columns[f"correct/{tap}/head"] = luck < 0.9
        found[group] = columns
    return found


def run(
    name: str,
    seed: int = 0,
    *,
    tap: str = "encoder",
    gap: float = 1.0,
    accuracy: float = 0.6,
    draw: int = 1,
    **more: Any,
) -> Results:
    columns = scores_of(draw, tap, gap, accuracy)
    sets = [
        (group, dataset, tuple(f"{i}.png" for i in range(n)), columns[group]) for group, (dataset, n) in SIZES.items()
    ]
    identity = {"run": name, "seed": seed, "taps": [{"name": tap, "depth": 0}], "head_tap": tap}
    identity |= {"detectors": ["msp", "energy"], "probes": ["linear"], **more}
    rows = [
        collapse_row(tap, 1.0, run=name),
        detection_row(tap, "svhn", 0.5, run=name),
        accuracy_row(tap, 0.9, run=name),
    ]
    return Results(rows=rows, identity=identity, scores=scores_table(sets))


def headline_entry(comparison: Any, **equals: Any) -> dict[str, Any]:
    entries = [entry for entry in comparison["differences"] if entry["headline"]]
    (found,) = [entry for entry in entries if all(entry[key] == value for key, value in equals.items())]
    return found


def values(results: Results, group: str, name: str) -> np.ndarray:
    groups = np.array(results.scores["group"].to_pylist())
    return np.array(results.scores[name].to_pylist())[groups == group].astype(float)


def test_differences_equal_those_of_the_metrics() -> None:
    a, b = run("baseline", gap=1.0), run("controlled", tap="projector", gap=1.6, accuracy=0.7, draw=2)
    found = compare([a, b], replicates=50)
    name_a, name_b = "score/encoder/energy", "score/projector/energy"
    fprs = []
    for group, (dataset, n) in list(SIZES.items())[1:3]:
        pairs = [(values(r, "id", name), values(r, group, name)) for r, name in ((a, name_a), (b, name_b))]
        entry = headline_entry(found, dataset=dataset, metric="auroc")
        assert entry["difference"] == pytest.approx(auroc(*pairs[1]) - auroc(*pairs[0]))
        assert (entry["n"], entry["group"], entry["tap"], entry["method"]) == (
            n,
            group,
            "encoder → projector",
            "energy",
        )
        fprs.append(fpr_at_tpr(*pairs[1]) - fpr_at_tpr(*pairs[0]))
        assert headline_entry(found, dataset=dataset, metric="fpr95_id_positive")["difference"] == pytest.approx(
            fprs[-1]
        )
    mean = headline_entry(found, dataset="mean", group="ood", metric="fpr95_id_positive")
    assert mean["difference"] == pytest.approx(np.mean(fprs)) and (mean["a"], mean["b"]) == ("baseline", "controlled")
    gain = (
        values(b, "transfer", "correct/projector/linear").mean()
        - values(a, "transfer", "correct/encoder/linear").mean()
    )
    error = headline_entry(found, dataset="birds", metric="transfer_error")
    assert error["difference"] == pytest.approx(-gain)
    assert headline_entry(found, kind="accuracy")["difference"] == 0


def test_the_interval_is_that_of_an_explicit_paired_bootstrap() -> None:
    a, b = run("a", gap=1.0), run("b", gap=1.3, draw=2)
    found = headline_entry(compare([a, b], replicates=600), dataset="svhn", metric="auroc")
    ids, oods = ([values(r, group, "score/encoder/energy") for r in (a, b)] for group in ("id", "far"))
    generator = np.random.default_rng(7)
    explicit, unpaired = [], []
    for _ in range(600):
        i, j = (generator.integers(0, len(side[0]), len(side[0])) for side in (ids, oods))
        k, m = (generator.integers(0, len(side[0]), len(side[0])) for side in (ids, oods))
        explicit.append(auroc(ids[1][i], oods[1][j]) - auroc(ids[0][i], oods[0][j]))
        unpaired.append(auroc(ids[1][k], oods[1][m]) - auroc(ids[0][i], oods[0][j]))
    width = np.subtract(*np.quantile(explicit, [0.975, 0.025]))
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.15)
    assert found["low"] == pytest.approx(np.quantile(explicit, 0.025), abs=0.2 * width)
    assert width < 0.6 * np.subtract(*np.quantile(unpaired, [0.975, 0.025])), "pairing is worth something here"


def test_equal_runs_differ_by_nothing_at_all() -> None:
    found = compare([run("a"), run("b")], replicates=40)
    for entry in found["differences"]:
        assert entry["difference"] == entry["low"] == entry["high"] == 0
    assert found["verdict"].count("no difference shown") == 3


def test_a_number_of_replicates_that_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match="replicates is -1: give a whole number from 0 up"):
        compare([run("a"), run("b")], replicates=-1)


def test_the_verdict_says_what_is_shown_and_what_not() -> None:
    a, b = run("baseline"), run("controlled", tap="projector", gap=2.0, accuracy=0.601, draw=2)
    text = compare([a, b])["verdict"]
    pattern = (
        r"controlled against baseline \(1 seed\): mean FPR95 \(ID positive\) over 2 OOD sets -\d+\.\d points "
        r"\[-\d+\.\d, -\d+\.\d\] \(better\) by energy; mean transfer error over 1 set -0\.\d points "
        r"\[-\d\.\d, [-+]\d\.\d\] "
        r"\(no difference shown\); ID accuracy \+0\.0 points \[\+0\.0, \+0\.0\] \(no difference shown\)\."
    )
    assert re.fullmatch(pattern, text), text
    assert "(worse)" in compare([b, a])["verdict"]
    assert "(no interval)" in compare([a, b], replicates=0)["verdict"]


def test_the_order_of_samples_does_not_matter_and_only_common_samples_are_compared() -> None:
    a, b = run("a"), run("b", gap=1.5, draw=2)
    shuffled = run("b", gap=1.5, draw=2)
    order = np.random.default_rng(0).permutation(shuffled.scores.num_rows)
    shuffled.scores = shuffled.scores.take(order)
    first, second = compare([a, b], replicates=0), compare([a, shuffled], replicates=0)
    for one, other in zip(first["differences"], second["differences"], strict=True):
        assert one["difference"] == pytest.approx(other["difference"])
    assert first["notes"] == []
    fewer = run("b", gap=1.5, draw=2)
    keep = [row for row, name in enumerate(fewer.scores["id"].to_pylist()) if int(name[:-4]) >= 20]
    fewer.scores = fewer.scores.take(keep)
    found = compare([a, fewer], replicates=0)
    assert headline_entry(found, dataset="svhn", metric="auroc")["n"] == 280
    assert any("svhn" in note and "280 in both" in note for note in found["notes"])


@pytest.mark.parametrize("what", [compare, over_seeds])
def test_paths_of_results_are_no_results(what: Any) -> None:
    with pytest.raises(UserError, match=r"'runs/b' is a str, no Results: load it, Results.load\(DIRECTORY\)"):
        what([run("a"), "runs/b"])


def test_runs_without_common_samples_say_so() -> None:
    a, b = run("a"), run("b")
    b.scores = b.scores.set_column(2, "id", [[f"other{i}" for i in range(b.scores.num_rows)]])
    found = compare([a, b])
    assert found["differences"] == [] and "nothing to compare" in found["verdict"]


def test_the_same_files_under_other_content_are_noted() -> None:
    datasets = ({"svhn": {"fingerprint": "a"}}, {"svhn": {"fingerprint": "b"}})
    found = compare([run("a", datasets=datasets[0]), run("b", datasets=datasets[1])], replicates=0)
    assert any("svhn" in note and "differ" in note for note in found["notes"])


def of(source: str, fingerprint: str) -> dict[str, Any]:
    """What an identity says of its ID test images."""
    return {"id_test": {"source": source, "fingerprint": fingerprint}}


def test_images_of_other_data_are_not_taken_for_the_same_though_their_ids_are() -> None:
    a = run("a", datasets=of("mnist.npz::test", "1"))
    b, c = (run(name, datasets=of("fashion.npz::test", "2"), accuracy=0.9) for name in "bc")
    found = compare([a, b, c], replicates=0)
    assert found["notes"] == [
        "b, c against a: id_test: mnist.npz::test in one run, fashion.npz::test in the other: not compared"
    ]
    assert not {entry["kind"] for entry in found["differences"]} & {"detection", "accuracy"}
    assert "ID accuracy" not in found["verdict"] and "transfer" in found["verdict"]
    assert not any(row["metric"] == "accuracy" for row in found["standings"])


@pytest.mark.parametrize("other", [of("moved/mnist.npz::test", "1"), of("mnist.npz::test", "2"), {}])
def test_images_of_one_source_or_of_equal_content_are_compared(other: dict[str, Any]) -> None:
    a, b = run("a", datasets=of("mnist.npz::test", "1")), run("b", datasets=other)
    assert "ID accuracy" in compare([a, b], replicates=0)["verdict"]


def test_seeds_are_paired_and_widen_the_interval() -> None:
    gaps = (1.4, 1.6, 1.8)
    baselines = [run(f"resnet18-none-seed{s}", s, draw=s) for s in range(3)]
    others = [run(f"resnet18-simplex_etf-seed{s}", s, gap=gaps[s], draw=10 + s) for s in range(3)]
    found = compare([*baselines, *others[::-1]])
    entry = headline_entry(found, dataset="svhn", metric="auroc")
    assert found["reference"] == entry["a"] == "resnet18-none" and entry["b"] == "resnet18-simplex_etf"
    name = "score/encoder/energy"
    by_seed = [
        auroc(values(b, "id", name), values(b, "far", name)) - auroc(values(a, "id", name), values(a, "far", name))
        for a, b in zip(baselines, others, strict=True)
    ]
    assert entry["by_seed"] == pytest.approx(by_seed) and entry["seeds"] == 3
    assert entry["difference"] == pytest.approx(np.mean(by_seed))
    student = stats.t.interval(0.95, 2, loc=np.mean(by_seed), scale=stats.sem(by_seed))
    assert entry["high"] - entry["low"] > student[1] - student[0]
    assert "(3 seeds)" in found["verdict"] and len(found["runs"]) == 6 and len(found["headline"]) == 6


def test_unmatched_seeds_are_named() -> None:
    found = compare([run("a-seed0", 0), run("a-seed1", 1), run("b-seed1", 1), run("b-seed2", 2)], replicates=0)
    assert any("seeds of both" in note and note.endswith("1") for note in found["notes"])
    found = compare([run("a-seed0", 0), run("b-seed5", 5)], replicates=0)
    assert any("no seed in common" in note for note in found["notes"])


def test_seeds_of_one_configuration_are_compared_one_by_one() -> None:
    found = compare([run("a-seed0", 0), run("a-seed1", 1, draw=2), run("a-seed2", 2, draw=3)], replicates=0)
    assert found["reference"] == "a-seed0" and len(found["verdicts"]) == 2
    assert {entry["b"] for entry in found["differences"]} == {"a-seed1", "a-seed2"}


def test_equal_names_are_told_apart() -> None:
    found = compare([run("trial"), run("trial", gap=2.0, draw=2)], replicates=0)
    assert found["verdict"].startswith("trial (2) against trial")


def test_several_groups_are_each_compared_with_the_first() -> None:
    found = compare([run("a"), run("b"), run("c")], replicates=0)
    assert [text.split(" (")[0] for text in found["verdicts"]] == ["b against a", "c against a"]


def test_covariate_sets_are_not_in_the_mean() -> None:
    def covariate(results: Results) -> Results:
        groups = ["covariate" if group == "far" else group for group in results.scores["group"].to_pylist()]
        results.scores = results.scores.set_column(0, "group", [groups])
        return results

    found = compare([covariate(run("a")), covariate(run("b", gap=2.0, draw=2))], replicates=0)
    mean = headline_entry(found, dataset="mean", group="ood", metric="auroc")
    assert mean["difference"] == headline_entry(found, dataset="cifar", metric="auroc")["difference"]
    assert "over 1 OOD set " in found["verdict"]


def test_a_detector_undefined_in_one_run_is_left_out() -> None:
    a, b = run("a"), run("b")
    position = b.scores.column_names.index("score/encoder/energy")
    b.scores = b.scores.set_column(position, "score/encoder/energy", [[float("nan")] * b.scores.num_rows])
    found = compare([a, b], replicates=0)
    assert {entry["method"] for entry in found["differences"] if entry["kind"] == "detection"} == {"msp"}
    assert "FPR95" not in found["verdict"]


def test_the_headline_is_knn_and_energy_and_else_the_first_named() -> None:
    a, b = run("a"), run("b")
    places = {"run": "a", "detection_tap": "encoder", "transfer_tap": "encoder", "probe": "linear"}
    for named, chosen in ((["vim", "energy", "knn"], ["knn", "energy"]), (["msp", "vim"], ["msp"])):
        for results in (a, b):
            results.identity |= {"detectors": named, "probes": ["linear", "knn"]}
        assert compare([a, b], replicates=0)["headline"][0] == places | {"detectors": chosen}


def test_each_detector_of_the_headline_is_in_the_verdict() -> None:
    a, b = run("a"), run("b", gap=1.5, draw=2)
    for results in (a, b):
        names = ["knn" if name == "score/encoder/msp" else name for name in results.scores.column_names]
        names = ["score/encoder/knn" if name == "knn" else name for name in names]
        results.scores = results.scores.rename_columns(names)
        results.identity["detectors"] = ["energy", "knn"]
    found = compare([a, b], replicates=20)
    means = [e for e in found["differences"] if e["headline"] and e["dataset"] == "mean" and e["metric"] == "auroc"]
    assert [entry["method"] for entry in means if entry["group"] == "ood"] == ["knn", "energy"]
    assert re.search(r"over 2 OOD sets .* by knn and .* by energy; ", found["verdict"])


def test_an_alias_is_read_where_it_was_measured() -> None:
    a, b = run("a"), run("b", tap="layer4", draw=2)
    a.identity["taps"][0]["aliases"] = ["layer4"]
    b.identity |= {"taps": [{"name": "layer4", "depth": 0}, {"name": "pool", "depth": 1}], "head_tap": "pool"}
    found = compare([a, b], replicates=0)["differences"]
    assert found and {entry["tap"] for entry in found} == {"encoder → layer4"}
    assert not any(entry["headline"] for entry in found)


def test_the_document_is_json(tmp_path: Path) -> None:
    found = compare([run("a"), run("b", gap=1.5, draw=2)], replicates=20)
    save_comparison(found, tmp_path / "comparison.json")
    assert json.loads((tmp_path / "comparison.json").read_text()) == found
    assert found["schema"] == 1 and "energy" in found["rule"]


def test_what_cannot_be_compared_is_one_line() -> None:
    with pytest.raises(UserError, match="two results or more, got 1"):
        compare([run("a")])
    without = run("b")
    without.scores = None
    with pytest.raises(UserError, match=r"b has no scores\.parquet"):
        compare([run("a"), without])
