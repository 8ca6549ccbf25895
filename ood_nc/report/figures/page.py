"""Figures for the report's page: Plotly traces and axes, to which the page's script gives its colours."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from ood_nc.report.figures.figure import Figure, Panel, Series
from ood_nc.report.numbers import compact

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "pentagon", "star")
_HEIGHT = 300
_GAP = 80


def plotly_figure(figure: Figure) -> dict[str, Any]:
    """Data and layout of a figure with panels.

    Returns:
        ``data``: traces, each with its ``label`` and ``style`` (color of eight, symbol, dash) for the legend;
        ``layout``: an axis pair a panel, its title an annotation.
    """
    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "height": _HEIGHT * rows, "hovermode": "closest", "barmode": "group"}
    gap = _GAP / (_HEIGHT * rows)
    width, height = (1 - 0.1 * (columns - 1)) / columns, (1 - gap * (rows - 1)) / rows
    for number, panel in enumerate(figure.panels):
        left, top = (number % columns) * (width + 0.1), 1 - (number // columns) * (height + gap)
        suffix = str(number + 1) if number else ""
        layout[f"xaxis{suffix}"], layout[f"yaxis{suffix}"] = _axes(panel, suffix, left, left + width, top, height)
        layout["annotations"].append(_title(panel, left + width / 2, top, both=columns < 3))
        scale = {"x": left + width, "y": top - height / 2, "len": height, "thickness": 8}
        traces = [{**_cells(panel), "colorbar": scale}] if panel.is_map else [_trace(one) for one in panel.series]
        data += [{**trace, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"} for trace in traces]
    return {"data": data, "layout": layout}


def _axes(panel: Panel, suffix: str, left: float, right: float, top: float, height: float) -> tuple[Any, Any]:
    names = list(dict.fromkeys(x for one in panel.series for x in one.x if isinstance(x, str)))
    x = {"domain": [left, right], "anchor": f"y{suffix}", "title": {"text": panel.x, "standoff": 4}}
    x |= {"type": "category", "categoryorder": "array", "categoryarray": names} if names else {}
    x |= {"type": "log", **_ticks([x for one in panel.series for x in one.x])} if panel.log_x else {}
    said = panel.y if panel.y != panel.title or panel.note else ""  # once, where the title says it
    y = {"domain": [max(top - height, 0), top], "anchor": f"x{suffix}", "title": {"text": said, "standoff": 2}}
    y |= {"type": "log", **_ticks([y for one in panel.series for y in one.y])} if panel.log_y else {}
    return x, {**y, "type": "category"} if panel.is_map else y


def _ticks(values: Sequence[Any]) -> dict[str, Any]:
    """Of a logarithmic axis: at 1, 2 and 5, over many decades at 1 alone."""
    positive = [value for value in values if value]
    factors = (1,) if max(positive, default=1) > 50 * min(positive, default=1) else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(-9, 10) for factor in factors]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _title(panel: Panel, x: float, y: float, *, both: bool) -> dict[str, Any]:
    """Title and note; where both have no room beside their neighbours, the note: the axes say the rest."""
    lines = [panel.title, *wrap(panel.note, 60)] if both else wrap(panel.note, 45) or [panel.title]
    place = {"x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
    return {"text": "\n".join(lines), "showarrow": False, **place}


def _cells(panel: Panel) -> dict[str, Any]:
    """The rows of a heat map, each a series, in one trace."""
    return {
        "type": "heatmap",
        "label": panel.title,
        "style": {"color": 1, "symbol": "square", "dash": "solid"},
        "x": list(panel.series[0].x),
        "y": [one.name for one in panel.series],
        "z": [[None if y is None else compact(y) for y in one.y] for one in panel.series],
        "text": [],
        "hovertemplate": "%{x}, %{y}: %{z}<extra></extra>",
    }


def _trace(one: Series) -> dict[str, Any]:
    symbol = _SYMBOLS[one.symbol]
    trace: dict[str, Any] = {
        "label": one.name,
        "style": {"color": one.color, "symbol": symbol, "dash": _DASHES[one.symbol % 4]},
        "x": [x if isinstance(x, str) else compact(x) for x in one.x],
        "y": [compact(y) for y in one.y],
        "text": list(one.labels or ()),
    }
    if one.mark == "bars":
        trace |= {"type": "bar", "textposition": "none"}
    elif one.mark == "steps":
        trace |= {"type": "scatter", "mode": "lines", "line": {"shape": "hv"}}
        trace |= {"fill": "tozeroy"} if one.color == 6 else {}
    else:
        size = 4 if len(one.x) > 30 else 8
        mode = "markers" if one.mark == "points" else "lines+markers"
        trace |= {"type": "scatter", "mode": mode, "marker": {"symbol": symbol, "size": size}}
    if one.reach is not None:
        down, up = ([compact(value) for value in values] for values in one.reach)
        trace["error_y"] = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "width": 3}
    return trace
