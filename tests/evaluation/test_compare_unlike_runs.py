"""Comparisons of runs that measured other sets, groups, probes or protocols."""

from __future__ import annotations

from typing import Any

from ood_nc.evaluation import Results, compare
from tests.evaluation.test_compare import headline_entry, run


def only(results: Results, keep: Any) -> Results:
    results.scores = results.scores.take([row for row, of in enumerate(results.scores.to_pylist()) if keep(of)])
    return results


def grouped(results: Results, old: str, new: str) -> Results:
    groups = [new if group == old else group for group in results.scores["group"].to_pylist()]
    results.scores = results.scores.set_column(0, "group", [groups])
    return results


def test_a_set_that_one_seed_lacks_is_in_no_mean_of_any() -> None:
    others = [run(f"b-seed{seed}", seed, gap=1.5, draw=3 + seed) for seed in (0, 1)]
    only(others[1], lambda of: of["group"] != "far")
    found = compare([run("a-seed0", 0), run("a-seed1", 1, draw=2), *others], replicates=20)
    wanted = {"metric": "fpr95_id_positive", "kind": "detection"}
    mean, near = (headline_entry(found, dataset=name, **wanted, group=group) for name, group in
                  (("mean", "ood"), ("cifar", "near")))  # fmt: skip
    assert mean["by_seed"] == near["by_seed"] and mean["seeds"] == 2
    assert headline_entry(found, dataset="svhn", **wanted)["seeds"] == 1
    assert "(2 seeds): mean FPR95 (ID positive) over 1 OOD set " in found["verdict"]
    assert "b against a: svhn, energy: in 1 of 2 seeds, so in no mean and no verdict" in found["notes"]


def test_seeds_in_names_tell_runs_apart_that_were_evaluated_alike() -> None:
    runs = [run(f"{name}-seed{seed}", 0, draw=seed + 1) for name in "ab" for seed in (3, 4)]
    found = compare(runs, replicates=0)
    assert len(found["verdicts"]) == 1 and found["verdict"].startswith("b against a (2 seeds)")


def test_sets_of_covariate_shift_alone_give_no_verdict_on_detection() -> None:
    runs = [only(run(name, gap=gap), lambda of: of["group"] != "near") for name, gap in (("a", 1.0), ("b", 2.0))]
    found = compare([grouped(one, "far", "covariate") for one in runs], replicates=0)
    assert "FPR95" not in found["verdict"] and "transfer" in found["verdict"]


def test_a_set_of_another_group_in_the_other_run_is_noted() -> None:
    found = compare([grouped(run("a"), "far", "covariate"), run("b")], replicates=0)
    assert found["notes"] == ["b against a: svhn: covariate in one run, far in the other: counted as covariate"]


def test_a_difference_between_two_probes_names_both() -> None:
    other = run("b", accuracy=0.9, probes=["knn"])
    other.scores = other.scores.rename_columns([name.replace("linear", "knn") for name in other.scores.column_names])
    assert "(no interval) by linear → knn;" in compare([run("a"), other], replicates=0)["verdict"]


def test_a_run_without_scores_by_sample_says_so() -> None:
    other = run("b")
    other.scores = other.scores.select(["group", "dataset", "id"])
    told = compare([run("a"), other], replicates=0)["verdict"]
    assert told.startswith("b against a: nothing to compare, b has no scores by sample") and "strict paper" in told


def test_runs_of_another_protocol_are_in_no_relation() -> None:
    runs = []
    for name, protocol in (("a", "strict"), ("b", "strict"), ("c", "paper")):
        runs.append(run(name))
        runs[-1].rows = [{**row, "protocol": protocol} for row in runs[-1].rows]
    found = compare(runs, replicates=0)
    assert {row["n"] for row in found["relations"] if not row["normalized"]} == {2}
    assert found["notes"] == ["c against a: measured by the protocol paper, not strict: in no relation"]


def test_probes_that_learn_from_other_images_are_noted() -> None:
    a, b = (run(name, datasets={"birds/train": {"fingerprint": name}}) for name in "ab")
    told = "b against a: birds/train: other images in the two runs, so their probes differ in what they learn from too"
    assert compare([a, b], replicates=0)["notes"] == [told]
    a.identity["model"] = b.identity["model"] = "features"
    assert compare([a, b], replicates=0)["notes"] == []


def test_no_run_is_lost_where_one_is_called_as_a_group_of_others() -> None:
    runs = [run(name, draw=draw) for draw, name in enumerate(("a-seed0", "a-seed1", "a", "b-seed0", "b-seed1"))]
    found = compare(runs, replicates=0)
    assert [text.partition(":")[0] for text in found["verdicts"]] == [
        "a (2) against a (1 seed)",
        "b against a (2 seeds)",
    ]


def test_runs_called_by_their_seed_alone_are_compared_one_by_one() -> None:
    """runs/a/seed0, runs/a/seed1, runs/b/seed0: the names tell no configurations apart."""
    found = compare([run("seed0", 0), run("seed1", 1), run("seed0", 0), run("seed1", 1)], replicates=0)
    assert [text.partition(" (1 seed)")[0] for text in found["verdicts"]] == [
        f"{name} against seed0" for name in ("seed1", "seed0 (2)", "seed1 (2)")
    ]
