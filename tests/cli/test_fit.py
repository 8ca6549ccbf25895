"""``ood-nc fit``, through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ood_nc import Detector
from ood_nc.cli import main
from ood_nc.config import load
from ood_nc.deployment.file import describe
from ood_nc.sealed import write_sealed


def test_the_file_says_what_was_fitted(trained_run: Path, detector_file: Path) -> None:
    header = describe(detector_file)
    assert header["about"]["detectors"] == ["mahalanobis on encoder"]
    # Fitted on what was trained on, calibrated on the validation split of that run.
    assert header["about"]["fitted_on"]["n"] == 60
    assert header["about"]["held_out"]["n"] == 40
    assert Detector.load(detector_file).threshold.tpr == 0.9


def test_fit_says_what_to_expect(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "k.safetensors"
    assert main(["fit", str(trained_run), "--set", "k=3", "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "learnt from" not in err
    assert "accepts a fresh ID image with probability 0.95 or more: score >= " in out
    assert "expected false alarms per 10,000 ID images: 488 [" in out
    assert f"ood-nc score {path} IMAGES..." in out
    member = Detector.load(path).members[0]
    assert (member.tap, member.detector.get_params()["k"]) == ("projector", 3)


def test_classes_in_which_nothing_is_ever_rejected_are_told(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "k.safetensors"
    assert main(["fit", str(trained_run), "--per-class", "-o", str(path)]) == 0  # of 40 images no class has 19
    out = capsys.readouterr().out
    detector = Detector.load(path)
    without = [name for c, name in enumerate(detector.model.class_names) if detector.limit(c) == float("-inf")]
    assert f"{len(without)} of {detector.model.num_classes} classes have too few held-out images" in out
    assert f"is accepted ({', '.join(without)})" in out and "per 10,000" not in out


def test_held_out_images_that_the_run_may_have_learnt_are_told(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Another seed draws others out of the training images, as does an image that is new among them.
    assert main(["fit", str(trained_run), "--seed", "1", "-o", str(tmp_path / "k.safetensors")]) == 0
    assert f"the training images are not those that {trained_run} learnt from: held-out ones" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_model_that_was_not_trained_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "id"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (images / label).mkdir(parents=True)
        for index in range(15):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / label / f"{index}.png")
    path = tmp_path / "d.safetensors"
    words = ["fit", "--model", "test_resnet", "--id", str(images), "--detector", "knn", "--tap", "encoder"]
    assert main([*words, "--device", "cpu", "-j", "0", "--set", "k=2", "--tpr", "0.8", "-o", str(path)]) == 0
    assert "the head has 1000 outputs for 2 ID classes" in " ".join(capsys.readouterr().err.split())
    header = describe(path)
    assert (header["about"]["fitted_on"]["n"], header["about"]["held_out"]["n"]) == (24, 6)


def test_what_is_no_detector_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """A checkpoint, an image or a configuration was gone, for a slip in -o."""
    begun = []
    monkeypatch.setattr("ood_nc.cli.fit._model", lambda *_: (None, load(None), None))
    monkeypatch.setattr("ood_nc.cli.fit._fit", lambda *_: begun.append(1))
    weights, text, detector = (tmp_path / name for name in ("best.safetensors", "config.yaml", "d.safetensors"))
    write_sealed(weights, {"a": torch.zeros(1)}, {"token": "", "spec": {}, "facts": {}})
    text.write_text("output: runs")
    write_sealed(detector, {"a": torch.zeros(1)}, {"members": [], "format": 1})
    for path in (weights, text):
        before = path.read_bytes()
        assert main(["fit", str(tmp_path), "-o", str(path)]) == 2
        assert f"{path} is there and is no detector" in capsys.readouterr().err
        assert path.read_bytes() == before and not begun
    assert main(["fit", str(tmp_path), "-o", str(detector)]) == 0 and begun


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "RUN", "--max-pixels", "9", "-o", "x"], "data.pixels.max_pixels is settled by the training of"),
        (["fit", "RUN", "--detector", "knnn", "-o", "x"], "Unknown detector 'knnn'. Did you mean 'knn'?"),
        (["fit", "RUN", "--tap", "encodr", "-o", "x"], "no tap 'encodr'. Did you mean 'encoder'?"),
        (["fit", "RUN", "--set", "k", "-o", "x"], "--set takes KEY=VALUE"),
        (["fit", "RUN", "--set", "k={", "-o", "x"], "--set k: '{' is no value"),
        (["fit", "RUN", "--set", "k=&a [*a]", "-o", "x"], "--set k: '&a [*a]' is no value"),
        (["fit", "RUN", "--detector", "nnguide", "--set", "fraction=abc", "-o", "x"], "'nnguide': fraction must be a"),
        (["fit", "RUN", "--set", "name=x", "-o", "x"], "Detector 'knn' has no hyper-parameter 'name'"),
        (["fit", "RUN", "--set", "self=x", "-o", "x"], "Detector 'knn' has no hyper-parameter 'self'"),
        (["fit", "RUN", "--set", "k=2001-01-01", "-o", "x"], "--set k: '2001-01-01' is no value"),
        (["fit", "RUN", "--tpr", "1.5", "-o", "x"], "tpr must be in (0, 1), got 1.5"),
        (["fit", "nope", "-o", "x"], "There is no run directory nope"),
        (["fit", "-o", "x"], "fit needs a run directory, or --model NAME --id FOLDER"),
        (["fit", "--model", "resnet18", "-o", "x"], "fit --model needs the ID images"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, refused: Callable[[list[str]], str]) -> None:
    assert message in refused(words)
