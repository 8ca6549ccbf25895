"""What of the results is looked at first: a row a tap, and the same as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ood_nc.documents import MEAN, partial_means
from ood_nc.errors import MissingPackageError
from ood_nc.headline import headline

Row = Mapping[str, Any]
NC1 = "NC1"
ERROR = "mean transfer error"
COLORS = ("#0062a8", "#b84a00", "#1a7a58", "#8b3d88")


def by_tap(rows: Sequence[Row], identity: Mapping[str, Any]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The taps in depth order; NC1 on ID train, mean FPR95 by the headline's detectors and mean transfer error of each.

    Args:
        rows: the long table, of one protocol.
        identity: of the run.
    """
    chosen = headline(identity)
    of_taps = [row for row in rows if row["kind"] != "layer" and row["depth"] is not None]
    taps = {row["tap"]: row["depth"] for row in of_taps if row["tap"]}
    wanted: dict[str, dict[str, Any]] = {NC1: {"kind": "collapse", "dataset": "id_train", "metric": "nc1_pinv"}}
    detection = {"kind": "detection", "dataset": MEAN, "group": "ood", "metric": "fpr95_id_positive"}
    for name in chosen.detectors:
        wanted[f"mean FPR95 (ID positive), {name}"] = {**detection, "method": name}
    wanted[ERROR] = {"kind": "transfer", "dataset": MEAN, "metric": "accuracy", "method": chosen.probe}
    found: dict[str, dict[str, float]] = {}
    for label, equals in wanted.items():
        values = {
            row["tap"]: row["value"] for row in rows if row["value"] is not None and equals.items() <= row.items()
        }
        found[label] = {tap: 1 - value if label == ERROR else value for tap, value in values.items()}
    return sorted(taps, key=lambda tap: int(taps[tap])), found


def partial(rows: Sequence[Row], identity: Mapping[str, Any]) -> list[str]:
    """Which of the means that `by_tap` gives are without a set that those of other taps are over, a line each."""
    chosen = headline(identity)
    shown = {("detection", name) for name in chosen.detectors} | {("transfer", chosen.probe)}
    return partial_means(row for row in rows if (row["kind"], row["method"]) in shown)


class Plots:
    """Figures of one evaluation, as ``plotly.graph_objects.Figure``; a notebook shows what a cell returns.

    Args:
        rows: the long table, of one protocol.
        identity: of the run.
    """

    def __init__(self, rows: Sequence[Row], identity: Mapping[str, Any]) -> None:
        self._run = str(identity.get("run", "run"))
        self._taps, self._found = by_tap(rows, identity)

    def layers(self) -> Any:
        """NC1 (log) and the errors of detection and transfer, in %, over the taps from input to head.

        Raises:
            MissingPackageError: plotly is not installed.
        """
        go, make_subplots = _plotly()
        figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
        for number, (label, values) in enumerate(self._found.items()):
            taps = [tap for tap in self._taps if tap in values]
            scale = 1 if label == NC1 else 100
            line = {"color": COLORS[number % len(COLORS)]}
            trace = go.Scatter(
                x=taps, y=[scale * values[tap] for tap in taps], name=label, mode="lines+markers", line=line
            )
            figure.add_trace(trace, row=1 if label == NC1 else 2, col=1)
        figure.update_xaxes(categoryorder="array", categoryarray=self._taps)
        figure.update_yaxes(title_text="NC1 (0 = collapsed)", type="log", row=1, col=1)
        figure.update_yaxes(title_text="error, %", row=2, col=1)
        return figure.update_layout(title=f"{self._run}: layer by layer", template="plotly_white")

    def tradeoff(self) -> Any:
        """The errors of detection and transfer, in %, against NC1 (log), a point a tap.

        Raises:
            MissingPackageError: plotly is not installed.
        """
        go, _ = _plotly()
        figure = go.Figure()
        collapse = self._found[NC1]
        errors = [values for label, values in self._found.items() if label != NC1]
        highest = {tap: max((values[tap] for values in errors if tap in values), default=0) for tap in self._taps}
        for number, (label, values) in enumerate(self._found.items()):
            taps = [tap for tap in self._taps if tap in values and collapse.get(tap, 0) > 0]
            if label != NC1 and taps:
                x, y = [collapse[tap] for tap in taps], [100 * values[tap] for tap in taps]
                # Points of a tap stand above each other: the highest alone has its name on it.
                look = {
                    "text": [tap if values[tap] == highest[tap] else "" for tap in taps],
                    "hovertext": taps,
                    "marker": {"color": COLORS[number % len(COLORS)], "symbol": number},
                    "textposition": "top center",
                }
                figure.add_trace(go.Scatter(x=x, y=y, name=label, mode="markers+text", **look))
        figure.update_xaxes(title_text="NC1 (0 = collapsed)", type="log")
        figure.update_yaxes(title_text="error, %")
        return figure.update_layout(title=f"{self._run}: collapse against errors", template="plotly_white")


def _plotly() -> tuple[Any, Any]:
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingPackageError("plot needs plotly: pip install plotly.") from None
    return go, make_subplots
