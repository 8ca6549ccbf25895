"""``ood-nc fit``, ``score`` and ``export``, through the command line."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ood_nc import Detector
from ood_nc.cli import main
from ood_nc.data import open_dataset
from ood_nc.deployment.file import describe

SMALL = [
    *("--config", "quickstart", "--model", "test_resnet", "--img-size", "32", "--epochs", "1", "--limit", "20"),
    *("--taps", "layer3,encoder,projector", "-j", "0", "--device", "cpu", "--quiet"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    assert main(["train", *SMALL, "--output", str(output), "--experiment", "run", "--data.val-fraction", "0.4"]) == 0
    return output / "run"


@pytest.fixture(scope="module")
def detector(run: Path) -> Path:
    path = run.parent / "d.safetensors"
    words = ["fit", str(run), "--detector", "mahalanobis", "--tap", "encoder", "--tpr", "0.9", "-o", str(path)]
    assert main([*words, "--quiet"]) == 0
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    dataset = open_dataset("bundled/digits-near")
    for index in range(5):
        dataset.load(index).save(root / f"{index}.png")
    return root


def test_the_file_says_what_was_fitted(run: Path, detector: Path) -> None:
    header = describe(detector)
    assert header["about"]["detectors"] == ["mahalanobis on encoder"]
    # Fitted on what was trained on, calibrated on the validation split of that run.
    assert header["about"]["fitted_on"]["n"] == 60
    assert header["about"]["held_out"]["n"] == 40
    assert Detector.load(detector).threshold.tpr == 0.9


def test_evaluate_ends_in_the_command_that_fits_what_it_recommends(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is run as it is printed: for a run whose data are elsewhere, and for a model from elsewhere."""
    dataset = open_dataset("bundled/digits-id::train")
    for index in range(60):
        folder = tmp_path / "digits" / str(dataset.targets[index])
        folder.mkdir(parents=True, exist_ok=True)
        dataset.load(index).save(folder / f"{index}.png")
    model = ["--model", "test_resnet", "--img-size", "32", "--taps", "layer3,encoder", "--id", str(tmp_path / "digits")]
    limits = ["--bootstrap", "0", "--probes", "linear", "--detectors", "knn,mahalanobis", "--device", "cpu", "-j", "0"]
    foreign = [*model, "--ood", "near=bundled/digits-near", "--output", str(tmp_path), "--experiment", "theirs"]
    for where in ([str(run), "--data.val-fraction", "0.3", "--eval-limit", "20"], [*foreign, "--eval-limit", "40"]):
        assert main(["evaluate", *where, *limits]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("recommended"))
        told, _, command = line.partition(": ood-nc ")
        assert "without OOD data" in told and "in hindsight" in told
        words = shlex.split(command)
        assert words[0] == "fit" and main([*words, "--quiet"]) == 0
        detector, tap = told.partition("): ")[2].partition(",")[0].split(" on ")
        assert describe(Path(words[-1]))["about"]["detectors"] == [f"{detector} on {tap}"]


def test_images_that_are_stored_otherwise_are_scored_by_a_rule_of_their_own(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = np.asarray(open_dataset("bundled/digits-near").load(0).convert("L"))
    Image.fromarray(photograph).save(tmp_path / "8.png")
    Image.fromarray(photograph.astype(np.uint16) * 16).save(tmp_path / "12.png")  # 12-bit values in 16-bit pixels

    def score(name: str, *more: str) -> tuple[float, str]:
        capsys.readouterr()
        assert main(["score", str(detector), str(tmp_path / name), "--device", "cpu", *more]) == 0
        (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return float(row["score"] or "nan"), row["error"]

    right, _ = score("8.png")
    assert score("12.png", "--value-range", "0,4080") == (right, "")
    assert score("12.png")[0] != right  # nearly black
    assert "the limit is" in score("8.png", "--max-pixels", "9")[1]


def test_fit_says_what_to_expect(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "k.safetensors"
    assert main(["fit", str(run), "--set", "k=3", "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert "accepts a fresh ID image with probability 0.95 or more: score >= " in out
    assert "expected false alarms per 10,000 ID images: 488 [" in out
    assert f"ood-nc score {path} IMAGES..." in out
    member = Detector.load(path).members[0]
    assert (member.tap, member.detector.get_params()["k"]) == ("projector", 3)


def test_scores_on_the_terminal(detector: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(detector), str(folder / "0.png"), str(folder / "1.png")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    verdict = Detector.load(detector)([folder / "0.png", folder / "1.png"])
    np.testing.assert_allclose([float(row["score"]) for row in rows], verdict.scores, rtol=1e-6)
    assert [row["prediction"] for row in rows] == verdict.predicted_names


def test_scores_to_a_file(detector: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jpg").write_bytes(b"no image")
    output = tmp_path / "s.parquet"
    words = ["score", str(detector), str(folder), "-o", str(output), "--fdr", "0.2", "-j", "1", "-b", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "scored 6 images" in out and "not readable: 1" in out and "false discovery rate of 0.2" in out
    assert pq.read_table(output).num_rows == 6
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--quiet"]) == 0


def test_a_file_without_its_backbone(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.safetensors"
    assert main(["fit", str(run), "--detector", "energy", "--no-backbone", "-o", str(path), "--quiet"]) == 0
    assert path.stat().st_size < 200_000
    assert main(["score", str(path), str(folder)]) == 2
    assert "holds no backbone: give the run or the weights" in capsys.readouterr().err
    assert main(["score", str(path), str(folder), "--backbone", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


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
    assert main([*words, "--device", "cpu", "-j", "0", "--set", "k=2", "--tpr", "0.8", "-o", str(path), "--quiet"]) == 0
    header = describe(path)
    assert (header["about"]["fitted_on"]["n"], header["about"]["held_out"]["n"]) == (24, 6)


@pytest.mark.parametrize("suffix", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_export(detector: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxscript")
    output = tmp_path / f"d.{suffix}"
    assert main(["export", str(detector), "-o", str(output)]) == 0
    assert output.stat().st_size > 10_000
    assert "images (B, 3, 32, 32), float32, RGB in [0, 1]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "FILE", "nope.png"], "No image, folder or archive at nope.png"),
        (["score", "nope.safetensors", "x.png"], "No detector file nope.safetensors"),
        (["score", "FILE", "IMAGES", "-b", "0"], "--batch-size must be at least 1"),
        (["score", "FILE", "IMAGES", "--value-range", "9"], "data.pixels.value_range"),
        (["score", "FILE", "IMAGES", "--value-range", "9,1"], "what is black must be smaller"),
        (["score", "FILE", "IMAGES", "--background", "blue"], "data.pixels.background"),
        (["score", "FILE", "IMAGES", "--max-pixels", "0"], "data.pixels.max_pixels"),
        (["fit", "RUN", "--max-pixels", "9", "-o", "x"], "data.pixels.max_pixels is settled by the training of"),
        (["evaluate", "RUN", "--lr", "9"], "optim.lr is settled by the training of"),
        (["evaluate", "RUN", "--taps", "encoder"], "model.taps is settled by the training of"),
        (["evaluate", "RUN", "-b", "9"], "--evaluation.batch_size"),
        (["fit", "RUN", "--detector", "knnn", "-o", "x"], "Unknown detector 'knnn'. Did you mean 'knn'?"),
        (["fit", "RUN", "--tap", "encodr", "-o", "x"], "no tap 'encodr'. Did you mean 'encoder'?"),
        (["fit", "RUN", "--set", "k", "-o", "x"], "--set takes KEY=VALUE"),
        (["fit", "RUN", "--set", "k={", "-o", "x"], "--set k: '{' is no value"),
        (["fit", "RUN", "--set", "k=&a [*a]", "-o", "x"], "--set k: '&a [*a]' is no value"),
        (["fit", "RUN", "--detector", "nnguide", "--set", "fraction=abc", "-o", "x"], "'nnguide': fraction must be a"),
        (["fit", "RUN", "--set", "name=x", "-o", "x"], "Detector 'knn' has no hyper-parameter 'name'"),
        (["fit", "RUN", "--set", "self=x", "-o", "x"], "Detector 'knn' has no hyper-parameter 'self'"),
        (["fit", "RUN", "--set", "k=2001-01-01", "-o", "x"], "--set k: '2001-01-01' is no value"),
        (["fit", "RUN", "--tpr", "1.5", "-o", "x"], "tpr and confidence must be in (0, 1)"),
        (["fit", "nope", "-o", "x"], "There is no run directory nope"),
        (["fit", "-o", "x"], "fit needs a run directory, or --model NAME --id FOLDER"),
        (["fit", "--model", "resnet18", "-o", "x"], "fit --model needs the ID images"),
        (["export", "FILE", "-o", "x.bin"], "must end in .onnx or .pt2"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    run: Path,
    detector: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"RUN": str(run), "FILE": str(detector), "IMAGES": str(folder)}
    assert main([known.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1 or "--quiet" in words
    assert not (tmp_path / "x").exists()
