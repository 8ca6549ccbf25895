"""How numbers are written, the same way in the page and in its script."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

DASH = "–"
MINUS = "−"


def percent(value: float) -> str:
    """A share as a percentage with one decimal, without the sign %, halves away from zero as JavaScript has it."""
    return _typeset(str(Decimal(100 * value).quantize(Decimal("0.1"), ROUND_HALF_UP)))


def three_digits(value: float) -> str:
    """Three significant digits; an exponent below 0.001 and from 1000 on."""
    if value == 0:
        text = "0"
    elif 0.001 <= abs(value) < 999.5:
        text = f"{value:#.3g}".rstrip(".")
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent):+d}"
    return _typeset(text)


def signed(value: float, digits: int = 2) -> str:
    """With its sign, for correlations and differences."""
    text = f"{value:+.{digits}f}"
    return _typeset("+" + text[1:] if float(text) == 0 else text)


def _typeset(text: str) -> str:
    """With a true minus sign, and without one on what is rounded to zero."""
    if text.startswith("-") and float(text) == 0:
        text = text[1:]
    return text.replace("-", MINUS)


def number(value: float | None, unit: str) -> str:
    """A value in a metric's unit: ``percent``, ``correlation`` or ``number``; a dash where it is undefined."""
    if value is None:
        return DASH
    if unit == "correlation":
        return signed(value)
    return percent(value) if unit == "percent" else three_digits(value)


def interval(low: float | None, high: float | None, unit: str) -> str:
    """``[low, high]``, or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{number(low, unit)}, {number(high, unit)}]"


def seconds(value: Any) -> str:
    """A duration in the unit a reader would choose."""
    value = float(value)
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def compact(value: float | None) -> float | int | None:
    """A value for the page's data: six significant digits are more than any figure shows."""
    if value is None:
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
