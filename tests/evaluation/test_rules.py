from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from ood_nc.errors import UserError
from ood_nc.evaluation.rules import MADE_FEATURES, MADE_IMAGES, RECOMMENDED, RULES, Evidence, choose
from ood_nc.scores import auroc

TAPS = ("stem", "layer1", "encoder", "projector")
NC1 = {"stem": 30.0, "layer1": 8.0, "encoder": 2.0, "projector": 0.4}
HELD_OUT = {"stem": 40.0, "layer1": 9.0, "encoder": 2.0, "projector": 3.0}
ID_ACCURACY = {"stem": 0.3, "layer1": 0.85, "encoder": 0.9, "projector": 0.9}


def evidence(**changes: Any) -> Evidence:
    collapse = {("id_train", "nc1_pinv", tap): value for tap, value in NC1.items()}
    collapse |= {("id_val", "nc1_pinv", tap): value for tap, value in HELD_OUT.items()}
    given: dict[str, Any] = {
        "taps": TAPS,
        "methods": {"detection": ["knn", "energy"], "transfer": ["linear"]},
        "headline": {"detection": ("projector", "knn"), "transfer": ("encoder", "linear")},
        "collapse": collapse,
        "id_accuracy": ID_ACCURACY,
        "scores": scores(),
    }
    return Evidence(**given | changes)


def scores() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    shifts = dict(zip(product(TAPS, ("knn", "energy")), (0.1, 0.4, 2.0, 0.3, 1.0, 0.2, 0.6, 0.5), strict=True))
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {tap: {} for tap in TAPS}
    for (tap, name), shift in shifts.items():
        ids, made = generator.normal(size=(2, 200))
        found[tap][name] = {"id_val": ids + shift, MADE_IMAGES: made, MADE_FEATURES: made - (tap == "stem")}
    return found


@pytest.mark.parametrize(
    ("task", "rule", "place"),
    [
        ("detection", "headline", ("projector", "knn")),
        ("detection", "nc1_train", ("projector", "knn")),
        ("detection", "nc1_held_out", ("encoder", "knn")),
        ("detection", "made_images", ("layer1", "knn")),
        ("transfer", "headline", ("encoder", "linear")),
        # stem is the least collapsed, but its ID probe is below 90 % of the best one's .9.
        ("transfer", "nc1_train", ("layer1", "linear")),
    ],
)
def test_hand_computed_choices(task: str, rule: str, place: tuple[str, str]) -> None:
    assert choose(RULES[task][rule], evidence()) == place


@pytest.mark.parametrize(("rule", "key"), [("made_images", MADE_IMAGES), ("made_features", MADE_FEATURES)])
def test_outliers_choose_what_tells_them_best_from_held_out_id(rule: str, key: str) -> None:
    found = scores()
    best = max(
        product(TAPS, ("knn", "energy")), key=lambda p: auroc(found[p[0]][p[1]]["id_val"], found[p[0]][p[1]][key])
    )
    assert choose(RULES["detection"][rule], evidence()) == best


def test_agreement_is_the_mean_spearman_correlation_with_all_others() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(size=80)
    names = list(product(TAPS[:3], ("knn", "energy")))
    columns = [common + noise * generator.normal(size=80) for noise in (0.2, 3, 0.9, 2, 1.5, 2.5)]
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {tap: {} for tap in TAPS[:3]}
    for (tap, name), column in zip(names, columns, strict=True):
        found[tap][name] = {"id_val": column.round(1)}
    table = [[spearmanr(a.round(1), b.round(1))[0] for b in columns] for a in columns]
    merits = RULES["detection"]["agreement"].merits(evidence(scores=found))
    for place, row in zip(names, table, strict=True):
        assert merits[place] == pytest.approx((sum(row) - 1) / 5)
    assert choose(RULES["detection"]["agreement"], evidence(scores=found)) == ("stem", "knn")


def test_equal_merits_go_to_the_deepest_tap() -> None:
    same = {tap: {"knn": {"id_val": np.ones(3), MADE_IMAGES: np.zeros(3)}} for tap in TAPS}
    assert choose(RULES["detection"]["made_images"], evidence(scores=same)) == ("projector", "knn")


@pytest.mark.parametrize("rule", ["made_images", "made_features", "agreement", "nc1_held_out", "vci_held_out"])
def test_a_rule_without_what_it_needs_says_what(rule: str) -> None:
    only_train = {key: value for key, value in evidence().collapse.items() if key[0] == "id_train"}
    lacking = evidence(scores={}, collapse=only_train)
    with pytest.raises(UserError, match=r"held-out ID|held out"):
        choose(RULES["detection"][rule], lacking)
    assert choose(RULES["detection"][RECOMMENDED["detection"][-1]], lacking), "the last resort needs nothing"


def test_scores_that_are_nan_cost_their_detector_the_choice_alone() -> None:
    spoilt = scores()
    spoilt["layer1"]["knn"][MADE_IMAGES] = np.full(200, np.nan)
    assert choose(RULES["detection"]["made_images"], evidence(scores=spoilt)) == ("encoder", "knn")
