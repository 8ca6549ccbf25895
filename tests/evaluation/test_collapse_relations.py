from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ood_nc.evaluation.collapse_relations import relate
from ood_nc.evaluation.correlation import Resampling, _ratio, _weighted_pearson, centred_ranks
from tests.helpers.rows import collapse_row, detection_row, transfer_row

TAPS = ("stem", "layer1", "layer2", "layer3", "encoder")
SETS = ("svhn", "textures", "places")


def table(run: str = "a", seed: int = 0, taps: tuple[str, ...] = TAPS) -> list[dict]:
    """A run whose numbers are random; ties included."""
    generator = np.random.default_rng(seed)
    rows = []
    for depth, tap in enumerate(taps):
        rows.append(collapse_row(tap, float(generator.integers(1, 5)), run=run, depth=depth))
        for name in SETS:
            rows.append(detection_row(tap, name, float(generator.integers(0, 6)) / 6, run=run, depth=depth))
            rows.append(detection_row(tap, name, float(generator.random()), run=run, metric="auroc", depth=depth))
        rows.append(transfer_row(tap, "birds", float(generator.random()), run=run, depth=depth))
    return rows


def values(rows: list[dict], y: str = "fpr95_id_positive") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the data set of every pair, straight from the rows."""
    x = {(row["run"], row["tap"]): row["value"] for row in rows if row["kind"] == "collapse"}
    pairs = [row for row in rows if row["metric"] == y]
    return (
        np.array([x[row["run"], row["tap"]] for row in pairs]),
        np.array([row["value"] for row in pairs]),
        np.array([f"{row['run']} {row['dataset']}" for row in pairs]),
    )


def one(relations: list[dict], **equals: object) -> dict:
    (found,) = [entry for entry in relations if all(entry[key] == value for key, value in equals.items())]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipys(seed: int) -> None:
    rows = table(seed=seed)
    relations = relate(rows, replicates=0)
    x, y, _ = values(rows)
    found = one(relations, y="fpr95_id_positive", normalized=False)
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y)[0])
    assert (found["n"], found["taps"], found["pearson_low"]) == (15, 5, None)
    x, y, _ = values(rows, "auroc")
    assert one(relations, y="1-auroc", normalized=False)["pearson"] == pytest.approx(stats.pearsonr(x, 1 - y)[0])
    x, y, _ = values(rows, "accuracy")
    transfer = one(relations, kind="transfer", normalized=False)
    assert (transfer["y"], transfer["n"]) == ("transfer_error", 5)
    assert transfer["pearson"] == pytest.approx(stats.pearsonr(x, 1 - y)[0])


def test_the_sign_is_that_of_collapse_value_against_error() -> None:
    # NC1 falls with depth; detection errors fall with it (positive), transfer errors rise (negative), as in the paper.
    rows = []
    for nc1, fpr, accuracy, tap in ((8.0, 0.9, 0.8, "a"), (2.0, 0.6, 0.7, "b"), (0.5, 0.3, 0.5, "c")):
        rows += [collapse_row(tap, nc1), detection_row(tap, "svhn", fpr), transfer_row(tap, "birds", accuracy)]
    relations = relate(rows, replicates=0)
    assert one(relations, kind="detection", normalized=False)["spearman"] == pytest.approx(1)
    assert one(relations, kind="transfer", normalized=False)["spearman"] == pytest.approx(-1)


def test_normalisation_is_min_max_within_run_and_data_set() -> None:
    rows = table()
    x, y, panel = values(rows)
    for name in np.unique(panel):
        inside = panel == name
        for array in (x, y):
            array[inside] = (array[inside] - array[inside].min()) / np.ptp(array[inside])
    found = one(relate(rows, replicates=0), y="fpr95_id_positive", normalized=True)
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y)[0])


def test_a_panel_without_spread_is_left_out_of_the_normalised_relation() -> None:
    rows = table()
    for row in rows:
        if row["dataset"] == "svhn" and row["metric"] == "fpr95_id_positive":
            row["value"] = 0.5
    relations = relate(rows, replicates=0)
    assert one(relations, y="fpr95_id_positive", normalized=True)["n"] == 10
    assert one(relations, y="fpr95_id_positive", normalized=False)["n"] == 15


def test_replicates_equal_scipy_on_explicitly_repeated_taps() -> None:
    rows = table(seed=3)
    x, y, _ = values(rows)
    units = np.repeat(np.arange(5), 3)
    resampling = Resampling(units, 40, 0.95, seed=1)
    defined = np.ones(15, dtype=bool)
    counts = resampling.counts(defined)[1:]
    assert (counts.reshape(40, 5, 3) == counts.reshape(40, 5, 3)[:, :, :1]).all(), "a tap is drawn with all its sets"
    assert (counts.sum(axis=1) == 15).all()
    pearson = _weighted_pearson(x[None], y[None], resampling.counts(defined))[0, 0, 1:]
    ranks = [centred_ranks(values, counts) for values in (x, y)]
    products = [
        (counts * a * b).sum(axis=1) for a, b in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))
    ]
    spearman = _ratio(*products, floor=1e-9)
    for replicate, count in enumerate(counts.astype(int)):
        drawn_x, drawn_y = np.repeat(x, count), np.repeat(y, count)
        if np.ptp(drawn_x) == 0 or np.ptp(drawn_y) == 0:
            assert np.isnan(pearson[replicate])
            continue
        assert pearson[replicate] == pytest.approx(stats.pearsonr(drawn_x, drawn_y)[0])
        assert spearman[replicate] == pytest.approx(stats.spearmanr(drawn_x, drawn_y)[0])


def test_intervals_hold_the_value_and_follow_the_seed() -> None:
    taps = tuple(f"layer{i}" for i in range(12))
    rows = table(taps=taps, seed=5)
    first, again, other = (one(relate(rows, seed=seed), kind="transfer", normalized=False) for seed in (0, 0, 1))
    assert first["pearson_low"] < first["pearson"] < first["pearson_high"]
    assert first == again != other


def test_fewer_than_three_taps_or_a_constant_are_undefined_with_a_reason() -> None:
    two = one(relate(table(taps=("a", "b"))), kind="transfer", normalized=False)
    assert two["pearson"] is None and "2 taps" in two["reason"]
    rows = [row for row in table() if row["kind"] != "collapse"] + [collapse_row(tap, 0.1) for tap in TAPS]
    constant = one(relate(rows), kind="transfer", normalized=False)
    assert constant["pearson"] is None and "vary" in constant["reason"]


def test_undefined_rows_means_overlap_and_covariate_sets_are_in_no_relation() -> None:
    rows = table()
    more = [detection_row("stem", "empty", None, reason="no images"), detection_row("stem", "mean", 0.1)]
    more += [detection_row("stem", "svhn (disjoint)", 0.1), detection_row("stem", "noisy", 0.1, group="covariate")]
    more += [collapse_row("stem", 99.0, dataset="id_test")]
    assert relate(rows + more) == relate(rows)


def test_several_runs_are_related_within_depth_and_across_runs() -> None:
    runs = [table(run, seed) for seed, run in enumerate("abc")]
    rows = [row for run in runs for row in run]
    found = one(relate(rows, replicates=0), y="fpr95_id_positive", normalized=False)
    x, y = (np.array([values(run)[i] for run in runs]) for i in (0, 1))
    within = stats.pearsonr((x - x.mean(axis=0)).ravel(), (y - y.mean(axis=0)).ravel())[0]
    assert found["pearson_within_depth"] == pytest.approx(within)
    assert found["pearson_across_runs"] == pytest.approx(stats.pearsonr(x.mean(axis=1), y.mean(axis=1))[0])
    alone = one(relate(runs[0], replicates=0), y="fpr95_id_positive", normalized=False)
    assert alone["pearson_within_depth"] is None and alone["pearson_across_runs"] is None


def test_equal_runs_have_nothing_left_within_depth() -> None:
    rows = table("a") + table("b")
    assert one(relate(rows, replicates=0), y="1-auroc", normalized=False)["pearson_within_depth"] is None


def test_means_of_runs_are_over_the_pairs_that_all_have() -> None:
    """A run with one tap more, a much collapsed one, looked more collapsed for it."""
    runs = [table(run, seed) for seed, run in enumerate("abc")]
    alike = one(relate([*runs[0], *runs[1], *runs[2]], replicates=0), y="fpr95_id_positive", normalized=False)
    more = [collapse_row("projector", 1e-3, run="c", depth=5)]
    more += [detection_row("projector", name, 0.9, run="c", depth=5) for name in SETS]
    found = one(relate([*runs[0], *runs[1], *runs[2], *more], replicates=0), y="fpr95_id_positive", normalized=False)
    assert found["n"] == alike["n"] + 3
    assert found["pearson_across_runs"] == alike["pearson_across_runs"]
