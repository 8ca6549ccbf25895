"""From a measured layer to production: one file that judges new images, fitted on ID data alone."""

from ood_nc.deployment.detector import Detector, Verdict
from ood_nc.deployment.export import export_onnx, export_program
from ood_nc.deployment.fitting import fit_detector, share_passes
from ood_nc.deployment.scoring import ScoringSummary, score_images

__all__ = [
    "Detector",
    "ScoringSummary",
    "Verdict",
    "export_onnx",
    "export_program",
    "fit_detector",
    "score_images",
    "share_passes",
]
