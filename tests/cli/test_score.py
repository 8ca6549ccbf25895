"""``ood-nc score`` and ``export``, through the command line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ood_nc import Detector
from ood_nc.cli import main
from ood_nc.data import open_dataset


def test_scores_on_the_terminal(detector_file: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(detector_file), str(digits / "0.png"), str(digits / "1.png")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    verdict = Detector.load(detector_file)([digits / "0.png", digits / "1.png"])
    np.testing.assert_allclose([float(row["score"]) for row in rows], verdict.scores, rtol=1e-6)
    assert [row["prediction"] for row in rows] == verdict.predicted_names


def test_scores_to_a_file(
    detector_file: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits / "broken.jpg").write_bytes(b"no image")
    output = tmp_path / "s.parquet"
    words = ["score", str(detector_file), str(digits), "-o", str(output), "--fdr", "0.2", "-j", "1", "-b", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "scored 6 images" in out and "not readable: 1" in out and "false discovery rate of 0.2" in out
    assert pq.read_table(output).num_rows == 6
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--quiet"]) == 0


def test_images_that_are_stored_otherwise_are_scored_by_a_rule_of_their_own(
    detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = np.asarray(open_dataset("bundled/digits-near").load(0).convert("L"))
    Image.fromarray(photograph).save(tmp_path / "8.png")
    Image.fromarray(photograph.astype(np.uint16) * 16).save(tmp_path / "12.png")  # 12-bit values in 16-bit pixels

    def score(name: str, *more: str) -> tuple[float, str]:
        capsys.readouterr()
        assert main(["score", str(detector_file), str(tmp_path / name), "--device", "cpu", *more]) == 0
        (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return float(row["score"] or "nan"), row["error"]

    right, _ = score("8.png")
    assert score("12.png", "--value-range", "0,4080") == (right, "")
    assert score("12.png")[0] != right  # nearly black
    assert "the limit is" in score("8.png", "--max-pixels", "9")[1]


def test_a_file_without_its_backbone(
    trained_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.safetensors"
    assert main(["fit", str(trained_run), "--detector", "energy", "--no-backbone", "-o", str(path), "--quiet"]) == 0
    assert path.stat().st_size < 200_000
    assert main(["score", str(path), str(digits)]) == 2
    assert "holds no backbone: give the run or the weights" in capsys.readouterr().err
    assert main(["score", str(path), str(digits), "--backbone", str(trained_run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("suffix", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_export(detector_file: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxscript")
    output = tmp_path / f"d.{suffix}"
    assert main(["export", str(detector_file), "-o", str(output)]) == 0
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
        (["evaluate", "RUN", "--lr", "9"], "optim.lr is settled by the training of"),
        (["evaluate", "RUN", "--taps", "encoder"], "model.taps is settled by the training of"),
        (["evaluate", "RUN", "-b", "9"], "--evaluation.batch_size"),
        (["export", "FILE", "-o", "x.bin"], "must end in .onnx or .pt2"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, refused: Callable[[list[str]], str]) -> None:
    assert message in refused(words)
