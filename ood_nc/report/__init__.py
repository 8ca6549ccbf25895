"""The HTML report: one self-contained file, made from results documents and nothing else."""

from __future__ import annotations

from ood_nc.report.figures import draw_figures
from ood_nc.report.page import write_comparison, write_report
from ood_nc.report.sweep import write_sweep

__all__ = ["draw_figures", "write_comparison", "write_report", "write_sweep"]
