"""The whole path from image to logits, score and p-value as one graph, for runtimes without Python."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ood_nc.deployment.detector import Detector
from ood_nc.detection import InputDetector
from ood_nc.errors import MissingPackageError, UserError
from ood_nc.files import atomic_path

OUTPUTS = ("logits", "score", "p_value", "accepted")


class DetectorGraph(nn.Module):
    """A detector as a module that can be traced.

    Takes images (B, C, H, W), float32, RGB in [0, 1], at the network's input size (resized and cropped already); they
    are normalised inside. Returns logits (B, K), score (B,) float64, p_value (B,) float64 and accepted (B,) bool.

    Args:
        detector: with one closed-form score.

    Raises:
        UserError: several scores, one that is no closed form, or thresholds by class.
    """

    mean: Tensor
    std: Tensor
    held_out: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        if len(detector.members) > 1:
            raise UserError("An ensemble cannot be exported: fit one detector on one tap.")
        score = detector.members[0].detector
        if isinstance(score, InputDetector) or not score.closed_form:
            raise UserError(
                f"Detector {score.name!r} is no closed form of one forward pass and cannot be exported: run it from "
                "Python, or fit another."
            )
        if detector.calibration.classes is not None:
            raise UserError("Thresholds by class cannot be exported: fit without per_class.")
        self.score = score
        self.tap = detector.members[0].tap
        self.uses_logits = self.tap == detector.model.head_tap and detector.uses_head
        self.model = detector.model
        preprocessing = detector.model.preprocessing
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocessing[name], dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("held_out", detector.calibration.scores.double())
        self.limit = detector.threshold.value

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images to logits, score, p-value and decision."""
        logits, taps = self.model.forward_taps((images - self.mean) / self.std)
        score = self.score.trace(taps[self.tap], logits if self.uses_logits else None)
        at_most = (self.held_out[None, :] <= score[:, None]).sum(dim=1)
        p_value = (at_most + 1).double() / (self.held_out.shape[0] + 1)
        return logits, score, p_value, score >= self.limit


def export_program(detector: Detector, path: str | Path | None = None) -> torch.export.ExportedProgram:
    """Trace a detector by ``torch.export``, the batch size free; write it where a path is given (``.pt2``).

    Raises:
        UserError: as `DetectorGraph` does; the file cannot be written.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import export_program, fit_detector
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> program = export_program(detector)
        >>> [tuple(output.shape) for output in program.module()(torch.zeros(3, 3, 32, 32))]
        [(3, 10), (3,), (3,), (3,)]
    """
    graph = copy.deepcopy(DetectorGraph(detector)).cpu().eval()  # a copy: the caller's stays where and as it is
    graph.score.to(torch.device("cpu"))  # no module: it is where it last judged images
    example = torch.rand(2, *detector.model.preprocessing["input_size"])
    batch = torch.export.Dim("batch", min=1, max=2**31)  # without a bound PyTorch 2.6 refuses it
    with _quiet(), torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes={"images": {0: batch}}, strict=False)
    if path is not None:
        # By way of memory: where the disk is full, PyTorch's own writer ends the process.
        content = io.BytesIO()
        torch.export.save(program, content)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())  # a view of it that an error keeps crashes Python 3.12
    return program


def export_onnx(detector: Detector, path: str | Path) -> None:
    """Write a detector as ONNX; class names, threshold (null where none rejects) and what it was fitted on stand in the
    model's metadata, as JSON.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        UserError: as `DetectorGraph` does; the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingPackageError("The export to ONNX needs onnx and onnxscript: pip install ood_nc[export].") from None
    program = export_program(detector)
    with _quiet(), torch.no_grad():
        converted = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=list(OUTPUTS), verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    for key, value in _metadata(detector).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def _metadata(detector: Detector) -> dict[str, str]:
    threshold = detector.threshold.value
    facts: dict[str, Any] = {
        "class_names": detector.model.class_names,
        "threshold": threshold if math.isfinite(threshold) else None,  # JSON knows no infinity
        "tpr": detector.calibration.tpr,
        "preprocessing": detector.model.preprocessing,
        "about": detector.about,
    }
    return {f"ood_nc.{name}": json.dumps(value) for name, value in facts.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log each of their steps; what matters they raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
