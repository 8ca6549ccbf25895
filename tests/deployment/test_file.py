"""The file: equal scores from another process, no code in it, and no other backbone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ood_nc import Detector
from ood_nc.deployment import fit_detector
from ood_nc.deployment.file import describe
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import create_feature_detector
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.sealed import read_sealed, write_sealed
from tests.deployment.conftest import digits, halves, image_tensor, make_model, near

SCORE = """
import sys
import numpy as np
import torch
from ood_nc import Detector
images = torch.from_numpy(np.load(sys.argv[2]))
verdict = Detector.load(sys.argv[1])(images)
np.savez(sys.argv[3], scores=verdict.scores, p_values=verdict.p_values, accepted=verdict.accepted)
"""


@pytest.mark.slow
def test_a_fresh_process_scores_a_thousand_images_alike(fitted: Detector, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(1000, *fitted.model.preprocessing["input_size"])).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    fitted.save(tmp_path / "d.safetensors")
    arguments = [str(tmp_path / name) for name in ("d.safetensors", "images.npy", "scores.npz")]
    subprocess.run([sys.executable, "-c", SCORE, *arguments], check=True, timeout=300)
    found, expected = np.load(tmp_path / "scores.npz"), fitted(torch.from_numpy(images))
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-6)
    assert (found["p_values"] == expected.p_values.numpy()).all()
    assert (found["accepted"] == expected.accepted.numpy()).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"detectors": ["knn"], "parameters": {"k": 3}},
        {"detectors": ["knn"], "parameters": {"index": "hnsw"}},
        {"detectors": ["vim"]},
        {"detectors": ["klm"]},
        {"detectors": ["odin"]},
        {"detectors": ["knn", "energy"], "taps": ["layer2", "projector"], "combine": "zscore"},
        {"detectors": ["energy"], "per_class": True},
    ],
    ids=str,
)
def test_loading_changes_nothing(model: ControlledModel, settings: dict, tmp_path: Path) -> None:
    held_out, fresh = halves(digits("test"))
    detector = fit_detector(model, digits("train"), held_out, **settings)
    images = [fresh.load(index) for index in range(20)]
    expected = detector(images)
    detector.save(tmp_path / "d.safetensors")
    loaded = Detector.load(tmp_path / "d.safetensors")
    found = loaded(images)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.p_values, expected.p_values)
    assert torch.equal(found.accepted, expected.accepted)
    assert found.predicted_names == expected.predicted_names
    assert loaded.about == json.loads(json.dumps(detector.about))
    assert loaded.threshold == detector.threshold


def test_the_file_says_what_it_is(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d.safetensors")
    header = describe(tmp_path / "d.safetensors")
    assert header["backbone"]["spec"]["class_names"] == list("01234")
    assert header["about"]["fitted_on"]["n"] == len(digits("train"))
    assert [member["tap"] for member in header["members"]] == ["encoder"]
    with safe_open(tmp_path / "d.safetensors", framework="pt") as opened:
        assert any(name.startswith("backbone/") for name in opened.keys())  # noqa: SIM118


def test_another_backbone_is_refused(fitted: Detector, model: ControlledModel, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path, backbone=False)
    with pytest.raises(UserError, match="holds no backbone"):
        Detector.load(path)
    save_file(model.state_dict(), tmp_path / "right.safetensors")
    save_file(make_model(seed=1).state_dict(), tmp_path / "wrong.safetensors")
    image = near().load(0)
    assert torch.equal(Detector.load(path, backbone=tmp_path / "right.safetensors")(image).scores, fitted(image).scores)
    assert torch.equal(Detector.load(path, backbone=model)(image).scores, fitted(image).scores)
    with pytest.raises(UserError, match=r"was fitted on a backbone with hash \w{12}, .*wrong.safetensors has \w{12}"):
        Detector.load(path, backbone=tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("of_ones_own", [False, True])
def test_a_backbone_that_is_given_other_images_is_refused(
    of_ones_own: bool, fitted: Detector, model: ControlledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_spec(model: ControlledModel) -> None:
        raise UserError("A model on a module of your own has no specification.")

    if of_ones_own:
        monkeypatch.setattr(ControlledModel, "spec", no_spec)
    fitted.save(tmp_path / "d.safetensors", backbone=False)
    other = copy.deepcopy(model)
    other.preprocessing = {**model.preprocessing, "mean": (0.1, 0.2, 0.3)}
    with pytest.raises(UserError, match=r"fitted on images of mean .*, the given backbone has \[0\.1"):
        Detector.load(tmp_path / "d.safetensors", backbone=other)
    other.preprocessing = {**model.preprocessing, "pixels": {"background": "white"}}  # as it is by itself
    assert len(Detector.load(tmp_path / "d.safetensors", backbone=other)(near().load(0))) == 1


def test_a_changed_weight_in_the_file_is_noticed(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    header, tensors = read_sealed(path)
    tensors["backbone/head.bias"] = tensors["backbone/head.bias"] + 1
    write_sealed(path, tensors, header)
    with pytest.raises(UserError, match="its own backbone has"):
        Detector.load(path)


def test_a_changed_header_is_noticed(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    whole = path.read_bytes()
    mean = json.dumps(json.dumps(fitted.model.preprocessing["mean"]))[1:-1].encode()
    assert whole.count(mean) == 1
    path.write_bytes(whole.replace(mean, b"[9, 9, 9]".ljust(len(mean))))
    with pytest.raises(UserError, match="is damaged: its content does not have the digest"):
        Detector.load(path)


def test_files_that_are_no_detector(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(UserError, match="No detector file"):
        Detector.load(path)
    fitted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        Detector.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="it carries no digest"):
        Detector.load(path)
    write_sealed(path, {"x": torch.zeros(1)}, {"spec": {}})
    with pytest.raises(UserError, match="is no detector file"):
        Detector.load(path)
    with pytest.raises(UserError, match="Cannot write"):
        fitted.save(tmp_path / "d.safetensors" / "inside.safetensors")


def test_an_interrupted_write_leaves_the_old_file(fitted: Detector, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    before = path.read_bytes()

    def interrupted(tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("ood_nc.sealed.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.safetensors"]


SPEC = ("backbone", "spec")
FORGERIES = {
    "an address": (*SPEC, "backbone", "hf-hub:timm/resnet18.a1_in1k"),
    "a folder": (*SPEC, "backbone", "local-dir:/etc"),
    "weights to fetch": (*SPEC, "backbone_options", {"pretrained": True}),
    "weights from a url": (*SPEC, "backbone_options", {"pretrained_cfg_overlay": {"url": "http://localhost/w.pth"}}),
    "weights from a file": (*SPEC, "backbone_options", {"pretrained_cfg_overlay": {"file": "/etc/passwd"}}),
    "a checkpoint": (*SPEC, "backbone_options", {"checkpoint_path": "/etc/passwd"}),
    "an option nobody has": (*SPEC, "backbone_options", {"nope": 1}),
    "too many classes": (*SPEC, "num_classes", 10**12),
    "other classes": (*SPEC, "class_names", ["a"]),
    "a huge image": (*SPEC, "preprocessing", "input_size", [3, 10**9, 10**9]),
    "no specification": (*SPEC, 3),
    "no backbone": ("backbone", []),
    "no members": ("members", []),
    "members that are none": ("members", {"a": 1}),
    "an unknown tap": ("members", 0, "tap", "nope"),
    "an unknown detector": ("members", 0, "state", "pairs", [["detector", "os.system"], ["fitted", {"pairs": []}]]),
    "no state": ("members", 0, "state", None),
    "an unknown tensor": ("calibration", {"tensor": "nope"}),
    "an impossible rate": ("calibration", "pairs", 2, 1, 7.0),
    "no rate": ("calibration", "pairs", 2, 1, None),
    "a broken ensemble": ("ensemble", {"pairs": []}),
    "nothing about it": ("about", 3),
    "another format": ("format", 10**30),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_header_is_refused_in_one_line(
    forgery: tuple, fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    header, tensors = read_sealed(path)
    inner: Any = header
    *places, last, value = forgery
    for place in places:
        inner = inner[place]
    inner[last] = value
    write_sealed(path, tensors, header)
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    with pytest.raises(UserError) as found:
        Detector.load(path)
    assert "\n" not in str(found.value)
    assert asked == []


@pytest.mark.parametrize("name", ["score", "__class__", "_network"])
def test_a_forged_state_sets_nothing_but_what_is_learnt(name: str, fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    header, tensors = read_sealed(path)
    state = dict(header["members"][0]["state"]["pairs"])
    state["fitted"]["pairs"].append([name, 1])
    write_sealed(path, tensors, header)
    with pytest.raises(UserError, match=f"learns nothing that is called '{name}'"):
        Detector.load(path)


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_search_indexes_are_built_again(index: str, model: ControlledModel, tmp_path: Path) -> None:
    features = torch.randn(1200, model.encoder_dim)
    fitted = create_feature_detector("knn", index=index, k=3).fit(features)
    detector = Detector(model, [Member("encoder", fitted)], None, Calibration(torch.zeros(20).double(), None, 0.9))
    detector.save(tmp_path / "d.safetensors")
    assert not any("index" in name for name in read_sealed(tmp_path / "d.safetensors")[1])
    images = torch.randn(10, *model.preprocessing["input_size"])
    assert torch.equal(Detector.load(tmp_path / "d.safetensors")(images).scores, detector(images).scores)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.bfloat16])
def test_models_of_other_types_are_judged_through(dtype: torch.dtype, model: ControlledModel, tmp_path: Path) -> None:
    other = copy.deepcopy(model).to(dtype)
    held_out, _ = halves(digits("test"))
    detector = fit_detector(other, digits("train"), held_out, detectors=["mahalanobis", "msp"], taps=["encoder"])
    images = torch.stack([image_tensor(model, digits("test"), index) for index in range(4)])
    verdict = detector(images)
    assert verdict.scores.dtype == torch.float64 and bool(verdict.scores.isfinite().all())
    detector.save(tmp_path / "d.safetensors")
    assert torch.equal(Detector.load(tmp_path / "d.safetensors")(images).scores, verdict.scores)
    with pytest.raises(UserError, match="No image"):
        detector(images[:0])


def test_the_default_type_of_a_program_is_not_that_of_a_file(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path / "d.safetensors")
    image = digits("test").load(0)
    try:
        torch.set_default_dtype(torch.float64)
        found = Detector.load(tmp_path / "d.safetensors")(image).scores
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, fitted(image).scores, rtol=1e-4, atol=0)


def test_what_is_loaded_in_inference_mode_can_take_gradients(model: ControlledModel, tmp_path: Path) -> None:
    held_out, train = halves(digits("test"))
    detector = fit_detector(model, train, held_out.subset(range(20)), detectors=["odin"])
    detector.save(tmp_path / "d.safetensors")
    image = digits("test").load(0)
    with torch.inference_mode():
        found = Detector.load(tmp_path / "d.safetensors")
        inside = found(image).scores
    assert torch.equal(found(image).scores, inside) and torch.equal(inside, detector(image).scores)
