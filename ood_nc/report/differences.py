"""The paired differences of a comparison as a table with an interval drawn in every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ood_nc.report.glossary import metric
from ood_nc.report.numbers import DASH, signed
from ood_nc.report.tables import GROUPS, Table


def difference_table(comparison: Mapping[str, Any]) -> Table | None:
    """Every difference, by place (what is compared where); the first place is what the verdict is made of."""
    entries = comparison.get("differences") or []
    if not entries:
        return None
    places: dict[str, int] = {}
    for entry in sorted(entries, key=lambda entry: not entry.get("headline")):
        places.setdefault(_place(entry), len(places))
    limits = [0.0] * len(places)
    for entry in entries:
        place = places[_place(entry)]
        limits[place] = max([limits[place], *(abs(end) for end in _ends(entry))])
    rows = []
    for entry in entries:
        place = places[_place(entry)]
        rows.append({**_line(entry, limits[place] or 1.0), "place": place})
    return {"places": list(places), "rows": sorted(rows, key=lambda row: row["place"])}


def points(value: float) -> str:
    """A difference of two shares in percentage points."""
    return signed(100 * value, 1)


def finding(entry: Mapping[str, Any]) -> str:
    """Whether a difference shows anything: its interval leaves zero out or not."""
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no difference shown"
    better = 1 if metric(entry["metric"]).better == "higher" else -1
    return "better" if entry["difference"] * better > 0 else "worse"


def _place(entry: Mapping[str, Any]) -> str:
    pair = f"{entry['b']} − {entry['a']}"
    if entry.get("headline"):
        return f"{pair}: what the verdict is made of"
    return f"{pair}: {entry['kind']}, {entry['tap']}, {entry['method']}"


def _ends(entry: Mapping[str, Any]) -> list[float]:
    return [entry[name] for name in ("low", "high", "difference") if entry.get(name) is not None]


def _line(entry: Mapping[str, Any], limit: float) -> Table:
    value, low, high = entry["difference"], entry.get("low"), entry.get("high")
    ends = "" if low is None or high is None else f"[{points(low)}, {points(high)}]"
    return {
        "what": metric(entry["metric"]).label,
        "set": f"mean, {GROUPS.get(entry['group'], entry['group'])}"
        if entry["dataset"] == "mean"
        else entry["dataset"],
        "where": f"{entry['tap']}, {entry['method']}",
        "text": DASH if value is None else points(value),
        "value": "" if value is None else repr(value),
        "interval": ends,
        "n": entry.get("n"),
        "seeds": entry.get("seeds", 1),
        "finding": finding(entry) if value is not None else "undefined",
        "bar": {name: _position(end, limit) for name, end in (("value", value), ("low", low), ("high", high))},
    }


def _position(value: float | None, limit: float) -> float | None:
    """Where a difference lies on a bar 100 wide with zero in the middle."""
    return None if value is None else round(50 + 46 * value / limit, 2)
