"""What a declaration gives: a constructor, a signature, checks of values, a search space."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from ood_nc.detection import FeatureDetector
from ood_nc.detection.kit.parameters import (
    Parameter,
    channel_std,
    flag,
    layer_names,
    nonnegative,
    numbers,
    one_of,
    percent,
    positive,
    share,
    whole,
)
from ood_nc.errors import UserError

INF, NAN = float("inf"), float("nan")


class Declared(FeatureDetector):
    name = "declared"
    k = Parameter[int | None](3, whole(1).or_none(), search=(1, 3))
    scale = Parameter(1.0, positive)

    def _score(self, queries):
        return queries.features[:, 0]


class Derived(Declared):
    scale = Parameter(2.0, positive, search=(2.0, 4.0))
    center = Parameter(False, flag)

    def __init__(self, *, hand_written: int = 7, **parameters):
        super().__init__(**parameters)
        self.hand_written = hand_written


def test_declarations_make_the_constructor_the_signature_and_the_search_space() -> None:
    assert str(inspect.signature(Declared)) == "(*, k=3, scale=1.0)"
    assert Declared().get_params() == {"k": 3, "scale": 1.0}
    assert Declared(k=None).k is None
    assert Declared.k.default == 3
    assert Declared().hyperparameters() == {"k": (1, 3)}


def test_a_derived_class_adds_its_own_keeps_the_order_and_may_write_a_constructor() -> None:
    assert Derived.parameter_names() == ("k", "scale", "center", "hand_written")
    assert Derived(k=1, hand_written=8).get_params() == {"k": 1, "scale": 2.0, "center": False, "hand_written": 8}
    assert Derived().hyperparameters() == {"k": (1, 3), "scale": (2.0, 4.0)}
    assert Declared().get_params() == {"k": 3, "scale": 1.0}


def test_an_unknown_name_and_a_value_out_of_range_are_one_line() -> None:
    with pytest.raises(UserError, match=r"^Detector 'declared' has no hyper-parameter 'scael'\. Did you mean 'scale'"):
        Declared(scael=1.0)
    with pytest.raises(UserError, match=r"^Detector 'declared': scale must be a number above 0, got 0\.$"):
        Declared().set_params(scale=0)
    with pytest.raises(UserError, match=r"^Detector 'declared': k must be a whole number of at least 1 or None"):
        Declared(k=1.0).fit([[1.0]])
    detector = Declared().set_params(k=np.int64(2))
    assert type(detector.k) is int


@pytest.mark.parametrize(
    ("allowed", "good", "bad"),
    [
        (positive, [1, 0.1], [0, -1, INF, NAN, True, "1", None]),
        (nonnegative, [0, 0.5], [-1e-9, INF, NAN, False]),
        (share, [0.5], [0, 1, 1.5, NAN]),
        (percent, [0, 99.9], [-1, 100, NAN]),
        (flag, [True, False], [0, 1, None]),
        (whole(2), [2, 10**9], [1, 2.0, True, None]),
        (whole(0).or_none(), [None, 0], [-1]),
        (one_of("a", "b"), ["a"], ["c", None, ""]),
        (numbers, [(1, 2.5), [0]], [(), 1, ("1",), (NAN,)]),
        (layer_names, [None, ("a", "b")], [(), ("a", "a"), "a", (1,)]),
        (channel_std, [None, 0.5, (0.1, 0.2)], [0, (), (0.1, 0), "a"]),
    ],
)
def test_what_is_allowed(allowed, good, bad) -> None:
    assert all(allowed.holds(value) for value in good)
    assert not any(allowed.holds(value) for value in bad)
