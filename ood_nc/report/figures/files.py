"""Figures as files: SVG and PDF by matplotlib, which needs neither network nor browser, and the numbers as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ood_nc.errors import UserError
from ood_nc.files import atomic_path, write_text
from ood_nc.report.figures.figure import COLUMNS, Figure, Panel
from ood_nc.spreadsheets import csv_text

COLORS = ("#b84a00", "#0062a8", "#1a7a58", "#8b3d88", "#766000", "#b3245a", "#4c5661", "#0a7f92")
"""The report's, on white."""

SYMBOLS = ("o", "D", "s", "^", "P", "v", "p", "*")
DASHES = ("-", "--", ":", "-.")
_STYLE: Any = {
    **{"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ood_nc"},
    # Letters as text, in fonts of one width; no Type 3 fonts, which publishers refuse.
    **{"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"], "pdf.fonttype": 42},
    # A name may have two dollar signs: what is between them is no formula.
    "text.parse_math": False,
}


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure that has panels as SVG, PDF and CSV, numbered as in the list.

    Args:
        figures: an empty one is passed over; its number stays free.
        folder: made where it is not there.

    Returns:
        The files.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("Figures as files need matplotlib: pip install 'ood_nc[figures]'.") from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, figure in enumerate(figures, start=1):
        if figure.panels:
            stem = folder / f"figure{number}-{figure.name}"
            write_text(stem.with_suffix(".csv"), as_csv(figure))
            written += [stem.with_suffix(".csv"), *_draw(figure, stem)]
    return written


def as_csv(figure: Figure) -> str:
    """The plotted numbers, all digits."""
    return csv_text([COLUMNS, *(row.values() for row in figure.rows())])


def _draw(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    shown = _legend(figure)
    widest = max(map(len, shown), default=0)
    across = max(1, min(len(shown), int(3.6 * columns / (0.6 + 0.07 * widest))))
    legend = 0.2 * -(-len(shown) // across)
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(3.6 * columns, 2.8 * rows + legend + 0.3), layout="constrained")
        canvas.suptitle(figure.title, fontsize=10)
        drawn: dict[str, Any] = {}
        places = list(canvas.subplots(rows, columns, squeeze=False).flat)
        for place, panel in zip(places, figure.panels, strict=False):
            handles = _draw_panel(place, panel)
            drawn |= {one.name: handle for one, handle in zip(panel.series, handles, strict=False)}
            if not shown and len(handles) > 1:
                place.legend(handles, [one.name for one in panel.series], fontsize=6)
        for place in places[len(figure.panels) :]:
            place.remove()
        if shown:
            canvas.legend([drawn[name] for name in shown], shown, loc="outside lower center", ncols=across, fontsize=7)
        return [_save(canvas, stem.with_suffix(suffix)) for suffix in (".svg", ".pdf")]


def _legend(figure: Figure) -> list[str]:
    """The names in a legend below all panels, where it lies on no curve: none where a name looks different in two."""
    looks: dict[str, set[tuple[int, int, str]]] = {}
    for panel in figure.panels:
        for one in () if panel.is_map else panel.series:
            looks.setdefault(one.name, set()).add((one.color, one.symbol, one.mark))
    return list(looks) if len(looks) > 1 and all(len(look) == 1 for look in looks.values()) else []


def _save(canvas: Any, path: Path) -> Path:
    # Without the date, so that the same numbers are the same file.
    dated = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    with atomic_path(path) as temporary:
        canvas.savefig(temporary, format=path.suffix[1:], metadata=dated)
    return path


def _draw_panel(axes: Any, panel: Panel) -> list[Any]:
    from matplotlib import ticker

    axes.set_title("\n".join(filter(None, (panel.title, panel.note))), fontsize=7, wrap=True)
    axes.set_xlabel(panel.x)
    if panel.y != panel.title:
        axes.set_ylabel(panel.y)
    if panel.is_map:
        return _draw_map(axes, panel)
    axes.grid(alpha=0.25)
    # Names in the order of all series, not of the first alone.
    names = list(dict.fromkeys(x for one in panel.series for x in one.x if isinstance(x, str)))
    handles = [_draw_series(axes, panel, number, names) for number in range(len(panel.series))]
    for axis, scale, log in ((axes.xaxis, axes.set_xscale, panel.log_x), (axes.yaxis, axes.set_yscale, panel.log_y)):
        if log:
            scale("log")
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())
    if len(names) > 4 and max(map(len, names)) > 3:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    elif names:
        axes.set_xticks(range(len(names)), names)
    return handles


def _draw_map(axes: Any, panel: Panel) -> list[Any]:
    """A heat map with its scale; no handle, for it has no legend."""
    values = [[float("nan") if y is None else y for y in one.y] for one in panel.series]
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes)
    names = list(panel.series[0].x)
    step = -(-len(names) // 24)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set_yticks(range(len(panel.series)), [one.name for one in panel.series])
    return []


def _draw_series(axes: Any, panel: Panel, number: int, names: list[str]) -> Any:
    one = panel.series[number]
    color = COLORS[one.color]
    if one.mark == "steps":
        is_id = one.color == 6
        return axes.stairs(one.y[:-1], one.x, color=color, fill=is_id, alpha=0.5 if is_id else 1)
    x = [names.index(value) for value in one.x] if names else list(one.x)
    if one.mark == "bars":
        width = 0.8 / len(panel.series)
        shift = (number - (len(panel.series) - 1) / 2) * width
        bars = axes.bar([value + shift for value in x], one.y, width, color=color, yerr=one.reach, capsize=2)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
        return bars
    if one.mark == "points" and number == 0 and one.labels and len(set(one.labels)) == len(x):
        # Above and below in turn, so that names of neighbours do not lie on each other.
        for turn, (place, y, label) in enumerate(sorted(zip(x, one.y, one.labels, strict=True), key=lambda it: it[0])):
            at = (3, -8 if turn % 2 else 3)
            axes.annotate(label, (place, y), xytext=at, textcoords="offset points", fontsize=6, color=color)
    look: dict[str, Any] = {
        "color": color,
        "linewidth": 1.2,
        "elinewidth": 0.7,
        "markersize": 2.5 if len(x) > 30 else 4,
    }
    look |= {"linestyle": "" if one.mark == "points" else DASHES[one.symbol % 4], "marker": SYMBOLS[one.symbol]}
    return axes.errorbar(x, one.y, one.reach, **look)
