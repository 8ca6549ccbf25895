"""The file: equal scores from another process, no code in it, and no other backbone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ood_nc import Detector
from ood_nc.config import PixelConfig
from ood_nc.deployment import fit_detector
from ood_nc.deployment.file import describe
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
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


def test_a_changed_weight_in_the_file_is_noticed(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    with safe_open(path, framework="pt") as opened:
        header = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["backbone/head.bias"][0] += 1
    save_file(tensors, path, metadata=header)
    with pytest.raises(UserError, match="its own backbone has"):
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

    monkeypatch.setattr("ood_nc.deployment.file.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.safetensors"]


def test_images_beyond_the_limit_are_our_own_error(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near().load(0).save(tmp_path / "large.png")
    monkeypatch.setattr(fitted.transform, "pixels", PixelConfig(max_pixels=5))
    with pytest.raises(UserError, match=r"Cannot read the image .*large\.png .*the limit is"):
        fitted(tmp_path / "large.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 5)
    with pytest.raises(UserError, match=r"Cannot read the image .*large\.png .*the limit is"):
        fitted(tmp_path / "large.png")


def test_kinds_of_images(fitted: Detector, tmp_path: Path) -> None:
    image = near().load(0)
    image.save(tmp_path / "i.png")
    expected = fitted(image).scores
    for given in (
        tmp_path / "i.png",
        str(tmp_path / "i.png"),
        np.asarray(image),
        [image],
        np.asarray(image.convert("L")),
    ):
        np.testing.assert_allclose(fitted(given).scores, expected, rtol=1e-5)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"Cannot read the image .*broken\.png"):
        fitted(tmp_path / "broken.png")
    with pytest.raises(UserError, match="its values go from 7 to 7, not 0 to 1"):
        fitted(np.full((4, 4), 7.0))
    with pytest.raises(UserError, match=r"\(B, C, H, W\)"):
        fitted(torch.zeros(3, 16, 16))
    with pytest.raises(UserError, match="No image"):
        fitted([])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_are_judged_through(dtype: torch.dtype, model: ControlledModel) -> None:
    other = copy.deepcopy(model).to(dtype)
    held_out, _ = halves(digits("test"))
    detector = fit_detector(other, digits("train"), held_out, detectors=["mahalanobis", "msp"], taps=["encoder"])
    images = torch.stack([image_tensor(model, digits("test"), index) for index in range(4)])
    verdict = detector(images)
    assert verdict.scores.dtype == torch.float64 and bool(verdict.scores.isfinite().all())
    with pytest.raises(UserError, match="no image"):
        detector(images[:0])
