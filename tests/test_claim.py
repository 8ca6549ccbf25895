"""The claim's page is computed as it was announced: means, pairs, intervals and places, against SciPy and by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from ood_nc.losses import Objective, Term

ROOT = Path(__file__).parent.parent


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "scripts"))  # as where a script is run
numbers, report = script("claim_numbers"), script("claim_report")
SETS = ("mnist", "characters", "flowers", "textures")


def run_of(arm: str, seed: int, values: dict[tuple[str, str], float], *, nc1: dict[str, float] | None = None) -> Any:
    """A run whose detection (by method, at the encoder) and transfer are given."""
    rows = []
    common = {"protocol": "strict", "tap": "encoder", "depth": "0", "group": "", "n": "1"}
    for (kind, name), value in values.items():
        for index, dataset in enumerate(SETS if kind != "accuracy" else ("id_test",)):
            row = {**common, "kind": kind, "dataset": dataset, "method": name, "value": f"{value + 0.01 * index}"}
            metric = "fpr95_id_positive" if kind == "detection" else "accuracy"
            rows.append({**row, "metric": metric})
    for depth, (tap, value) in enumerate((nc1 or {"encoder": 1.0}).items()):
        row = {**common, "tap": tap, "depth": str(depth), "kind": "collapse", "dataset": "id_train", "method": ""}
        rows.append({**row, "metric": "nc1_pinv", "value": str(value)})
    return numbers.Run("fashion", arm, seed, rows)


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.4, 0.1, (2, 5))
    runs = [run_of("both", seed, {("detection", "knn"): value}) for seed, value in enumerate(a)]
    runs += [run_of("baseline_ws", seed, {("detection", "knn"): value}) for seed, value in reversed(list(enumerate(b)))]
    runs.append(run_of("baseline_ws", 9, {("detection", "knn"): 99.0}))
    found = numbers.paired(
        runs, "fashion", "both", "baseline_ws", lambda run: run.detection("strict", "encoder", "knn")
    )
    expected = ttest_rel(a, b).confidence_interval()
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.seeds == 5


def test_a_missing_set_leaves_the_mean_undefined_and_folds_count_as_one_set() -> None:
    run = run_of("both", 0, {("detection", "knn"): 0.1, ("transfer", "linear"): 0.5})
    assert run.detection("strict", "encoder", "knn") == pytest.approx(0.115)
    assert run.transfer("strict", "encoder") == pytest.approx(1 - 0.515)
    for row in [row for row in run.rows if row["kind"] == "transfer" and row["dataset"] == "textures"]:
        row["dataset"] = "textures (fold 1)"
        run.rows.append({**row, "dataset": "textures (fold 2)", "value": "0.93"})
    assert run.transfer("strict", "encoder") == pytest.approx(1 - (0.5 + 0.51 + 0.52 + (0.53 + 0.93) / 2) / 4)
    run.rows[:] = [row for row in run.rows if row["dataset"] != "mnist"]
    assert run.detection("strict", "encoder", "knn") is None
    assert run.transfer("strict", "encoder") is None


def test_places() -> None:
    run = run_of("both", 0, {}, nc1={"block1": 4.0, "encoder": 0.2, "projector": 0.3})
    assert run.place("strict", "paper's tap") == "projector"
    assert run.place("strict", "encoder") == "encoder"
    assert run.place("strict", "most collapsed") == "encoder"
    assert run_of("baseline", 0, {}).place("strict", "paper's tap") == "encoder"


@pytest.mark.parametrize("better", [True, False])
def test_the_claim_holds_only_where_both_errors_fall(better: bool) -> None:
    runs = []
    for seed in range(3):
        shift = 0.001 * seed
        accuracy = {("accuracy", "head"): 0.9}
        reference = {("detection", "knn"): 0.4, ("detection", "energy"): 0.4, ("transfer", "linear"): 0.6}
        transfer = 0.7 if better else 0.5
        controlled = {("detection", "knn"): 0.2 + shift, ("detection", "energy"): 0.4 + shift}
        runs.append(run_of("baseline_ws", seed, accuracy | reference))
        runs.append(run_of("both", seed, accuracy | controlled | {("transfer", "linear"): transfer + shift}))
    (sentence,) = [line for line in report.verdicts(runs, "fashion") if "strict" in line]
    assert ("the claim holds for FPR95, k-NN" in sentence) is better
    assert "3 seeds" in sentence


def test_one_seed_shows_nothing() -> None:
    values = {("detection", "knn"): 0.4, ("transfer", "linear"): 0.6, ("accuracy", "head"): 0.9}
    runs = [run_of(arm, 0, values) for arm in ("both", "baseline_ws")]
    assert all("nothing is shown yet" in line for line in report.verdicts(runs, "fashion"))


def test_the_plan_has_the_seeds_that_were_announced() -> None:
    claim = script("claim")
    jobs = [job for job, _ in claim.plan()]
    assert len(set(jobs)) == len(jobs)
    for suite in ("fashion", "cifar"):
        for arm in numbers.ARMS:
            seeds = sorted(job.seed for job in jobs if (job.suite, job.arm) == (suite, arm))
            assert seeds == (list(range(5)) if arm in ("baseline_ws", "projector", "both") else list(range(3)))
    for job, changes in claim.plan():
        config = claim.configuration(job, changes, Path("data"), Path("runs"))
        assert config.train.seed == job.seed
        terms = [Term(**term.model_dump()) for term in config.loss.terms]
        objective = Objective(entropy_weights=config.loss.entropy_weights(), terms=terms)
        assert all(term.tap in config.model.taps for term in objective.terms)
        if job.suite == "small":
            assert config.train.epochs == 8
            assert job.arm in numbers.SMALL
            assert (config.model.projector.kind == "none") == (job.arm in ("baseline_ws", *numbers.OTHERS))
            continue
        assert (config.model.projector.kind == "none") == (job.arm in ("baseline", "baseline_ws", "entropy"))
        assert (config.model.normalization == "native") == (job.arm == "baseline")
        assert bool(config.loss.entropy_weights()) == (job.arm in ("entropy", "both"))


def test_a_curve_changes_one_setting_and_has_the_plans_own_point_among_its_rows() -> None:
    claim = script("claim")
    for job, changes in claim.plan(curves=True):
        arm, _, changed = job.arm.partition(".")
        config = claim.configuration(job, changes, Path("data"), Path("runs"))
        whole = next(c for j, c in claim.plan() if (j.suite, j.arm, j.seed) == (job.suite, arm, job.seed))
        planned = claim.configuration(job._replace(arm=arm), whole, Path("data"), Path("runs"))
        key, _, value = changed.partition("=")
        section = {"limit": "data", "epochs": "train", "entropy_weight": "loss"}[key]
        assert getattr(getattr(config, section), key) == float(value)
        (differ,) = [name for name in ("data", "train", "loss") if getattr(config, name) != getattr(planned, name)]
        assert differ == section
        in_plan = getattr(getattr(planned, section), key)
        assert in_plan is None or in_plan == report.PLANNED[f"{section}.{key}"] or key == "entropy_weight"

    values = {("accuracy", "head"): 0.9, ("detection", "knn"): 0.4, ("transfer", "linear"): 0.6}
    points = [run_of(f"both.entropy_weight={value}", 0, values) for value in ("3.2", "0.2")]
    plans = [run_of(arm, 0, values) for arm in ("both", "projector", "baseline")]
    for run in (*points, *plans):
        (row,) = [row for row in run.rows if row["kind"] == "accuracy"]
        run.rows.append({**row, "dataset": "id_train", "value": "0.99"})
    rows = report.curve(points, plans, "loss.entropy_weight", 0.05).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["0", "**0.05**", "0.2", "3.2"]
    assert all("| `both` | 90.0 | 99.0 | 1 | - | 41.5 |" in row for row in rows)
