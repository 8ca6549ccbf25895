"""Exported graphs against the detector in Python."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ood_nc.deployment import Detector, export, export_onnx, export_program, fit_detector
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import FeatureDetector, create_feature_detector, detector_class, list_detectors
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from tests.deployment.conftest import digits, halves
from tests.detection.agreement import assert_agrees


@pytest.fixture(scope="module")
def tiny() -> ControlledModel:
    """A network of one convolution: what is traced behind it is what is tested."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ControlledModel(module, 5, projector=None, taps=("encoder",), img_size=16)


CLOSED_FORMS = [name for name in list_detectors(kind="feature") if detector_class(name).closed_form]
QUICK = {"energy", "mahalanobis", "react", "vim", "nnguide"}


def as_detector(model: ControlledModel, name: str, tap: str = "encoder") -> Detector:
    """A detector fitted on random numbers: the graph is what is tested."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 5
    features = torch.randn(200, model.encoder_dim, generator=rng).abs() + labels[:, None] / 5
    head = torch.randn(5, model.encoder_dim, generator=rng), torch.randn(5, generator=rng)
    fitted = create_feature_detector(name).fit(features, labels, head=head)
    calibration = Calibration(fitted.score(features[:50]), None, 0.95)
    return Detector(model, [Member(tap, fitted)], None, calibration)


def inputs(model: ControlledModel, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1], and as the detector takes them."""
    images = torch.rand(n, *model.preprocessing["input_size"], generator=torch.Generator().manual_seed(n))
    mean, std = (torch.tensor(model.preprocessing[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return images, (images - mean) / std


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CLOSED_FORMS]
)
def test_every_closed_form_traces(tiny: ControlledModel, name: str) -> None:
    traced_as_it_is(as_detector(tiny, name))


def traced_as_it_is(detector: Detector) -> None:
    program = export_program(detector).module()
    for n in (1, 7):
        images, prepared = inputs(detector.model, n)
        logits, score, p_value, accepted = (output.detach() for output in program(images))
        expected = detector(prepared)
        assert_agrees(np.asarray(score), expected.scores.numpy(), scale_free=False)
        np.testing.assert_allclose(p_value, expected.p_values)
        assert (accepted == expected.accepted).all()
        np.testing.assert_allclose(logits, detector.model(prepared).detach(), rtol=1e-5, atol=1e-6)


def adapted(tiny: ControlledModel) -> Detector:
    """Mahalanobis at an adapter that changes what it is given."""
    taps = ("encoder", "adapter", "projector")
    model = ControlledModel(copy.deepcopy(tiny.backbone), 5, adapter=3, taps=taps, img_size=16)
    assert model.adapter is not None
    nn.init.normal_(model.adapter.up.weight, generator=torch.Generator().manual_seed(0))
    return as_detector(model, "mahalanobis", "adapter")


def test_an_adapter_traces(tiny: ControlledModel) -> None:
    traced_as_it_is(adapted(tiny))


@pytest.mark.slow
def test_an_adapter_in_onnxruntime(tiny: ControlledModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    detector = adapted(tiny)
    export_onnx(detector, tmp_path / "d.onnx")
    parity(detector, tmp_path / "d.onnx")


def parity(detector: Detector, path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    for n in (1, 5):
        images, prepared = inputs(detector.model, n)
        logits, score, p_value, accepted = session.run(None, {"images": images.numpy()})
        expected = detector(prepared)
        assert_agrees(np.asarray(score), expected.scores.numpy(), scale_free=False)
        np.testing.assert_allclose(p_value, expected.p_values)
        assert (accepted == expected.accepted.numpy()).all()
        np.testing.assert_allclose(logits, detector.model(prepared).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_every_closed_form_in_onnxruntime(tiny: ControlledModel, name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    detector = as_detector(tiny, name)
    export_onnx(detector, tmp_path / "d.onnx")
    parity(detector, tmp_path / "d.onnx")


@pytest.mark.slow
def test_onnx_of_a_fitted_file(model: ControlledModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    held_out, _ = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, detectors=["energy"])
    export_onnx(detector, tmp_path / "d.onnx")
    parity(detector, tmp_path / "d.onnx")
    facts = onnxruntime.InferenceSession(tmp_path / "d.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(facts["ood_nc.threshold"]) == detector.threshold.value
    assert json.loads(facts["ood_nc.class_names"]) == list("01234")


def test_a_threshold_that_rejects_nothing_is_json(tiny: ControlledModel) -> None:
    detector = as_detector(tiny, "energy")
    few = Calibration(detector.calibration.scores[:5], None, 0.95)
    facts = export._metadata(Detector(tiny, detector.members, None, few))
    assert facts["ood_nc.threshold"] == "null"


def test_a_score_that_was_last_on_a_gpu_is_brought_to_the_processor(
    tiny: ControlledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = as_detector(tiny, "energy")
    moved: list[tuple[object, str]] = []
    monkeypatch.setattr(FeatureDetector, "to", lambda self, device: moved.append((self, device.type)))
    export_program(detector)
    assert [where for _, where in moved] == ["cpu"] and moved[0][0] is not detector.members[0].detector


def test_the_detector_that_is_exported_stays_as_it_is(tiny: ControlledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = as_detector(tiny, "energy")
    moved: list[object] = []
    monkeypatch.setattr(Detector, "to", lambda self, device: moved.append(device))
    detector.model.train()
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    export_program(detector)
    assert all(module.training for module in detector.model.modules())
    assert moved == []
    assert all(torch.equal(value, before[name]) for name, value in detector.model.state_dict().items())
    tiny.eval()


@pytest.mark.slow
def test_a_full_disk_is_one_line(tiny: ControlledModel, tmp_path: Path) -> None:
    """With as little room as a file of 4 KiB, in a process of its own: the limit holds for all of it."""
    code = (
        "import resource, signal, sys, torch\n"
        "from ood_nc.deployment import Detector, export_program\n"
        "detector = Detector.load(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    if sys.argv[2].endswith('s'):\n"
        "        detector.save(sys.argv[2])\n"
        "    else:\n"
        "        export_program(detector, sys.argv[2])\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    as_detector(ControlledModel("test_resnet", 5, img_size=32), "energy").save(tmp_path / "d.safetensors")
    for name in ("e.pt2", "e.safetensors"):
        arguments = [sys.executable, "-c", code, str(tmp_path / "d.safetensors"), str(tmp_path / name)]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"UserError Cannot write {tmp_path / name}: File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_a_saved_program_loads(model: ControlledModel, tmp_path: Path) -> None:
    detector = as_detector(model, "max_logit")
    export_program(detector, tmp_path / "d.pt2")
    images, prepared = inputs(model, 3)
    score = torch.export.load(tmp_path / "d.pt2").module()(images)[1]
    np.testing.assert_allclose(score, detector(prepared).scores, rtol=1e-5)


def test_what_is_no_closed_form_is_refused(model: ControlledModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'knn' is no closed form"):
        export_onnx(as_detector(model, "knn"), tmp_path / "d.onnx")
    held_out, _ = halves(digits("test"))
    several = fit_detector(model, digits("train"), held_out, detectors=["energy", "msp"])
    with pytest.raises(UserError, match="An ensemble cannot be exported"):
        export_program(several)
    by_class = fit_detector(model, digits("train"), held_out, detectors=["energy"], per_class=True)
    with pytest.raises(UserError, match="by class cannot be exported"):
        export_program(by_class)
    assert list(tmp_path.iterdir()) == []
