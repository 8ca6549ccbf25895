"""The small trial of better ends: every arm is a run that there can be, and the table is what was announced."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_rel

from ood_nc.evaluation import Results
from ood_nc.evaluation.results import make_row
from ood_nc.losses import Objective, Term

ROOT = Path(__file__).parent.parent
specification = importlib.util.spec_from_file_location("better_ends", ROOT / "scripts" / "better_ends.py")
better_ends = importlib.util.module_from_spec(specification)
specification.loader.exec_module(better_ends)
PLAN = yaml.safe_load((ROOT / "configs" / "ends" / "plan.yaml").read_text())


@pytest.mark.parametrize("arm", PLAN["arms"])
def test_every_arm_is_a_run_with_a_loss_that_there_is(arm, tmp_path):
    config = better_ends.configuration(arm, 1, PLAN, tmp_path, tmp_path)
    assert config.train.epochs == 8 and config.train.seed == 1 and config.experiment == f"{arm}-seed1"
    terms = [Term(**term.model_dump()) for term in config.loss.terms]
    objective = Objective(entropy_weights=config.loss.entropy_weights(), terms=terms)
    assert all(term.tap in config.model.taps for term in objective.terms)
    assert arm in (ROOT / "configs" / "ends" / "preregistration.md").read_text()


def test_the_table_is_paired_by_seed_with_students_interval_and_folds_are_one_set(tmp_path):
    rng = np.random.default_rng(0)
    errors = {arm: rng.normal(0.4, 0.1, 3) for arm in ("both", "warm")}
    for arm, by_seed in errors.items():
        for seed, error in enumerate(by_seed):
            rows = []
            for wanted in better_ends.NUMBERS.values():
                value = 1 - error if wanted["kind"] == "transfer" else error
                sets = {"id_test": value} if wanted["kind"] == "accuracy" else {"a": value - 0.1, "b": value + 0.1}
                if wanted["kind"] == "transfer":
                    sets = {"a": value - 0.1, "b (fold 1)": value, "b (fold 2)": value + 0.2, "mean": 0.0}
                rows += [make_row(wanted, dataset=name, value=one) for name, one in sets.items()]
            Results(rows, {"taps": []}).save(tmp_path / f"{arm}-seed{seed}")
    (line,) = better_ends.table(PLAN, tmp_path).splitlines()[2:]
    expected = ttest_rel(errors["warm"], errors["both"]).confidence_interval()
    mean = (errors["warm"] - errors["both"]).mean()
    cell = f"{100 * mean:+.1f} [{100 * expected.low:+.1f}, {100 * expected.high:+.1f}]"
    assert line == f"| `warm` | 3 | {cell} | {cell} | {cell} | {cell} |"
