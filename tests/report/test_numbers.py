from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ood_nc.report.numbers import compact, interval, number, percent, seconds, signed, three_digits


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.9123, "91.2"),
        (0.0625, "6.3"),
        (0.2125, "21.3"),
        (1.0, "100.0"),
        (0.0, "0.0"),
        (-0.1234, "−12.3"),
        (-1e-9, "0.0"),
    ],
)
def test_percent_rounds_halves_away_from_zero(value: float, shown: str) -> None:
    assert percent(value) == shown


@given(st.floats(-2, 2))
def test_percent_is_within_half_a_digit(value: float) -> None:
    assert abs(float(percent(value).replace("−", "-")) - 100 * value) <= 0.05 + 1e-9


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9.0612, "9.06"),
        (123.4, "123"),
        (0.5, "0.500"),
        (0.001234, "0.00123"),
        (0.00012, "1.2e−4"),
        (1234.5, "1.2e+3"),
        (-0.36, "−0.360"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    assert three_digits(value) == shown


@given(st.floats(1e-8, 1e8))
def test_three_digits_are_near_the_value(value: float) -> None:
    assert float(three_digits(value).replace("−", "-")) == pytest.approx(value, rel=0.05)


def test_correlations_have_their_sign_and_zero_is_positive() -> None:
    assert [signed(value) for value in (0.774, -0.6, -0.001)] == ["+0.77", "−0.60", "+0.00"]


def test_undefined_is_a_dash_without_interval() -> None:
    assert number(None, "percent") == "–"
    assert interval(None, 0.2, "percent") == "" == interval(0.1, None, "percent")
    assert interval(0.1, 0.2, "percent") == "[10.0, 20.0]"
    assert number(-0.5, "correlation") == "−0.50"


@pytest.mark.parametrize(("value", "shown"), [(1.25, "1.2 s"), (59.6, "60 s"), (180, "3.0 min"), (9000, "2.5 h")])
def test_seconds_in_a_readers_unit(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_compact_keeps_six_digits() -> None:
    assert [compact(value) for value in (0.123456789, 3.0, None, 1e20)] == [0.123457, 3, None, 1e20]
    assert isinstance(compact(3.0), int)
