"""Transfer: how well a frozen feature space serves other classes, by probes and their tunnel-effect summaries."""

from __future__ import annotations

from ood_nc.transfer.fewshot import few_shot
from ood_nc.transfer.lda import lda_probe
from ood_nc.transfer.linear import LinearProbe, fit_linear_probe, linear_probe
from ood_nc.transfer.means import nearest_mean_probe
from ood_nc.transfer.neighbors import knn_probe
from ood_nc.transfer.paper_probe import CNN_PROBE, VIT_PROBE, PaperSettings, paper_probe
from ood_nc.transfer.registry import PROBES, Probe
from ood_nc.transfer.result import ProbeResult, check_task, read_test, wilson_interval
from ood_nc.transfer.ridge import ridge_probe
from ood_nc.transfer.testing import check_probe
from ood_nc.transfer.tunnel import id_ood_alignment, layer_correlation, retained_accuracy

__all__ = [
    "CNN_PROBE",
    "PROBES",
    "VIT_PROBE",
    "LinearProbe",
    "PaperSettings",
    "Probe",
    "ProbeResult",
    "check_probe",
    "check_task",
    "few_shot",
    "fit_linear_probe",
    "id_ood_alignment",
    "knn_probe",
    "layer_correlation",
    "lda_probe",
    "linear_probe",
    "nearest_mean_probe",
    "paper_probe",
    "read_test",
    "retained_accuracy",
    "ridge_probe",
    "wilson_interval",
]
