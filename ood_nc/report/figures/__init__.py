"""The figures of a run or of several, one definition for the report and for files: documents in, `Figure` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ood_nc.files import expanded
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.figures.figure import COLUMNS, Figure, Panel, Series
from ood_nc.report.figures.files import write_figures
from ood_nc.report.figures.histograms import histograms
from ood_nc.report.figures.layers import courses, layers
from ood_nc.report.figures.maps import maps
from ood_nc.report.figures.outcomes import outcomes
from ood_nc.report.figures.page import plotly_figure
from ood_nc.report.figures.profiles import profiles
from ood_nc.report.figures.roc import roc
from ood_nc.report.figures.trade_off import entropy, trade_off
from ood_nc.report.figures.training import training

__all__ = ["COLUMNS", "FIGURES", "Figure", "Panel", "Series", "build", "draw_figures", "plotly_figure", "write_figures"]

FIGURES = (trade_off, entropy, outcomes, histograms, training, maps, profiles, layers, courses, roc)
"""Figures 1 to 7 of the ICML 2025 paper in its order; then every layer's input, at the end and over training; ROC."""


def build(runs: Sequence[Run]) -> list[Figure]:
    """Every figure of these runs; one that they cannot show says why, or is left out where nobody would look for it."""
    return [figure for make in FIGURES if (figure := make(runs)).panels or figure.missing]


def draw_figures(
    directories: Sequence[str | Path], folder: str | Path, *, protocol: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write the figures of evaluated runs.

    Args:
        directories: the runs.
        folder: of the files.
        protocol: strict where not given.

    Returns:
        The files, and a line for each figure that these runs cannot show.

    Raises:
        UserError: a run has no readable results, or none of the protocol, matplotlib is not installed, a file cannot be
            written.
    """
    figures = build(read_runs(directories, protocol=protocol))
    files = write_figures(figures, expanded(folder))
    return files, [f"no figure of {one.title.lower()}: {one.missing}" for one in figures if one.missing]
