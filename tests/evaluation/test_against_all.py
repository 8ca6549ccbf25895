"""One detector against every other, against a loop over resampled images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from ood_nc.errors import UserError
from ood_nc.evaluation import Results
from ood_nc.evaluation.against_all import Duel, against_all, verdict
from ood_nc.evaluation.results import make_row
from ood_nc.evaluation.scores_table import read_samples, scores_table

SIZES = {("id", "id_test"): 60, ("near", "cats"): 40, ("far", "noise"): 50, ("covariate", "blurred"): 30}
DETECTORS = {"knn": 2.0, "msp": 0.0, "energy": 1.0}
"""How far each separates the sets."""


def run(tap: str, gain: float, seed: int) -> Results:
    rng = np.random.default_rng(seed)
    sets, columns = [], {}
    for (group, name), size in SIZES.items():
        shift = 0.0 if group == "id" else -1.0
        columns[name] = {f"score/{tap}/{d}": rng.normal(shift * (s + gain), 1, size) for d, s in DETECTORS.items()}
        sets.append((group, name, tuple(f"{name}{i}" for i in range(size)), columns[name]))
    rows = []
    for method in DETECTORS:
        key = f"score/{tap}/{method}"
        found = [auroc(columns["id_test"][key], columns[name][key]) for name in ("cats", "noise")]
        base = {"kind": "detection", "tap": tap, "dataset": "mean", "group": "ood", "method": method}
        rows += [make_row(base, metric="auroc", value=float(np.mean(found)))]
    return Results(rows, {"detectors": list(DETECTORS)}, scores=scores_table(sets))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(roc_auc_score([1] * len(inside) + [0] * len(outside), [*inside, *outside]))


def scores(results: Results, name: str, column: str) -> np.ndarray:
    return read_samples(results.scores).get(("id" if name == "id_test" else "ood", name), column)


def test_differences_are_of_the_means_over_near_and_far_sets() -> None:
    reference, challenger = run("encoder", 0.0, 0), run("projector", 0.5, 1)
    duels = against_all(reference, challenger, "energy", taps=("encoder", "projector"), replicates=200)
    assert {duel.metric for duel in duels} == {"auroc", "fpr95_id_positive"}
    duels = [duel for duel in duels if duel.metric == "auroc"]
    assert [duel.method for duel in duels] == ["knn", "energy", "msp"]  # its best first
    inside = scores(challenger, "id_test", "score/projector/energy")
    mine = np.mean([auroc(inside, scores(challenger, n, "score/projector/energy")) for n in ("cats", "noise")])
    for duel in duels:
        assert duel.reference + duel.difference == pytest.approx(mine, abs=1e-12)
        assert duel.low < duel.difference < duel.high
    assert [duel.outcome for duel in duels][-1] == "better"


def test_the_interval_is_that_of_the_difference_on_the_same_images() -> None:
    """A detector against itself differs by nothing; two unpaired intervals would be wide."""
    one = run("encoder", 0.0, 0)
    same = against_all(one, one, "msp", taps=("encoder", "encoder"), replicates=50)
    (duel,) = [duel for duel in same if (duel.metric, duel.method) == ("auroc", "msp")]
    assert (duel.difference, duel.low, duel.high, duel.outcome) == (0, 0, 0, "no difference shown")


def test_the_verdict_is_plain() -> None:
    best, second = Duel("auroc", "vim", 0.9, 0.03, 0.01, 0.05), Duel("auroc", "knn", 0.8, 0.13, 0.1, 0.15)
    assert verdict([best, second], "auroc") == (
        "auroc: better than each of the 2 detectors at the encoder; against the best of them, vim 0.900: "
        "+0.030 [+0.010, +0.050] (better)"
    )
    unclear = Duel("fpr95_id_positive", "vim", 0.3, -0.03, -0.07, 0.01)
    worse = Duel("fpr95_id_positive", "knn", 0.2, 0.07, 0.02, 0.1)
    assert "NOT better than every detector, but better than 0 and worse than 1 of 2" in verdict(
        [worse, unclear], "fpr95_id_positive"
    )
    assert Duel("auroc", "knn", 0.8, 0.1, None, None).outcome == "no difference shown"


def test_without_sets_or_scores_in_common_it_is_one_line() -> None:
    one, other = run("encoder", 0.0, 0), run("projector", 0.0, 1)
    with pytest.raises(UserError, match="no OOD set in common"):
        against_all(one, other, "vim", taps=("encoder", "projector"))
    other.scores = None
    with pytest.raises(UserError, match="no scores"):
        against_all(one, other, "knn", taps=("encoder", "projector"))


def test_a_set_that_one_of_the_two_has_no_scores_on_is_named_and_in_neither_mean() -> None:
    """The reference's mean was over all of its sets, the difference over those of both, without a word."""
    reference, challenger = run("encoder", 0.0, 0), run("projector", 0.5, 1)
    whole = {duel.method: duel for duel in against_all(reference, challenger, "msp", taps=("encoder", "projector"))}
    table = reference.scores.to_pydict()
    lost = [
        None if name == "noise" else value
        for name, value in zip(table["dataset"], table["score/encoder/knn"], strict=True)
    ]
    reference.scores = pa.table(table | {"score/encoder/knn": lost})
    duels = against_all(reference, challenger, "msp", taps=("encoder", "projector"))
    last = [duel for duel in duels if duel.metric == "auroc"][-1]
    assert (last.method, last.without) == ("knn", ("noise",)) and "without noise)" in str(last)
    inside = scores(reference, "id_test", "score/encoder/knn")
    assert last.reference == pytest.approx(auroc(inside, scores(reference, "cats", "score/encoder/knn")))
    assert all(duel == whole[duel.method] for duel in duels if duel.metric == "fpr95_id_positive" and not duel.without)
