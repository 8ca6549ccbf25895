from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ood_nc.cli import main
from ood_nc.data import open_dataset
from ood_nc.deployment import Detector, explanation
from ood_nc.deployment.explanation import explain
from ood_nc.deployment.members import Calibration
from ood_nc.errors import UserError
from ood_nc.report.explanation import write_explanation

from .conftest import digits, image_tensor


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training image, a held-out one and a texture, as files."""
    folder = tmp_path_factory.mktemp("images")
    sets = {
        "trained": (digits("train"), 3),
        "fresh": (digits("test"), 5),
        "texture": (open_dataset("bundled/textures"), 9),
    }
    for name, (dataset, index) in sets.items():
        dataset.load(index).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in sets}


@pytest.fixture(scope="module")
def explained(fitted: Detector, files: dict[str, Path]) -> dict[str, dict]:
    return {name: explain(fitted, path, digits("train")) for name, path in files.items()}


def test_the_decision_is_the_detectors_own(
    fitted: Detector, explained: dict[str, dict], files: dict[str, Path]
) -> None:
    for name, path in files.items():
        verdict, found = fitted(path), explained[name]
        assert (found["score"], found["p_value"]) == (float(verdict.scores[0]), float(verdict.p_values[0]))
        assert found["accepted"] == bool(verdict.accepted[0]) == (found["score"] >= found["threshold"])
        assert found["prediction"] == verdict.predicted_names[0] and found["detectors"] == ["mahalanobis on encoder"]
    assert sum(explained["fresh"]["histogram"]["counts"]) == len(fitted.calibration.scores)
    json.dumps(explained, allow_nan=False)


def test_a_decision_by_class_is_explained_by_that_class(
    fitted: Detector, files: dict[str, Path], tmp_path: Path
) -> None:
    verdict = fitted(files["texture"])
    label, score = int(verdict.predictions[0]), float(verdict.scores[0])
    scores = torch.linspace(score - 9, score + 1, 60, dtype=torch.float64)
    shared, others = torch.tensor([label, label + 1]).repeat(30), torch.full((60,), label + 1)
    for classes, limit, count in ((shared, float(scores[0]), 30), (others, float("-inf"), 0)):
        by_class = Detector(fitted.model, fitted.members, None, Calibration(scores, classes, 0.95), fitted.about)
        found = explain(by_class, files["texture"], digits("train"))
        assert found["threshold"] == limit and found["accepted"] and by_class(files["texture"]).accepted[0]
        assert sum(found["histogram"]["counts"]) == count and f"by the {count} held-out" in found["notes"][0]
        write_explanation(found, tmp_path / "page.html")


def test_nearest_and_percentile_are_those_of_a_slow_loop(fitted: Detector, explained: dict[str, dict]) -> None:
    train, model = digits("train"), fitted.model
    with torch.inference_mode():
        _, taps = model.forward_taps(torch.stack([image_tensor(model, train, i) for i in range(len(train))]))
        _, own = model.forward_taps(image_tensor(model, digits("test"), 5)[None])
    for tap in explained["fresh"]["taps"]:
        rows = taps[tap["name"]].double().numpy()
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        query = own[tap["name"]][0].double().numpy()
        query = query / np.linalg.norm(query)
        distances = sorted(
            (float(np.linalg.norm(row - query)), name) for row, name in zip(rows, train.ids, strict=True)
        )
        assert [one["id"] for one in tap["nearest"]] == [name for _, name in distances[:8]]
        assert [one["distance"] for one in tap["nearest"]] == pytest.approx([d for d, _ in distances[:8]], abs=1e-4)
        tenth = [sorted(np.linalg.norm(rows - row, axis=1))[10] for row in rows]
        assert tap["percentile"] == pytest.approx(100 * np.mean(np.array(tenth) >= distances[9][0]), abs=0.5)


def test_blocks_of_the_bank_change_nothing(
    fitted: Detector, explained: dict[str, dict], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "_BLOCK", 50)
    for whole, parts in zip(
        explained["fresh"]["taps"], explain(fitted, files["fresh"], digits("train"))["taps"], strict=True
    ):
        assert [one["id"] for one in parts["nearest"]] == [one["id"] for one in whole["nearest"]]
        assert parts["percentile"] == pytest.approx(whole["percentile"], abs=0.2)


def test_a_training_image_is_near_itself_and_a_texture_near_nothing(explained: dict[str, dict]) -> None:
    for tap in explained["trained"]["taps"]:
        assert tap["nearest"][0]["id"] == digits("train").ids[3] and tap["nearest"][0]["distance"] < 1e-3
    encoder = {name: next(t for t in found["taps"] if t["name"] == "encoder") for name, found in explained.items()}
    assert encoder["texture"]["percentile"] < encoder["fresh"]["percentile"]
    assert [t["name"] for t in explained["fresh"]["taps"] if t["read"]] == ["encoder"]
    assert {t["name"] for t in explained["fresh"]["taps"]} == {"layer2", "encoder", "projector"}


def test_thumbnails_show_the_images_and_classes_have_names(explained: dict[str, dict]) -> None:
    first = explained["trained"]["taps"][0]["nearest"][0]
    train = digits("train")
    assert first["class"] == train.class_names[train.targets[3]]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["thumbnail"].partition(",")[2]))), dtype=float)
    stored = np.asarray(train.load(3), dtype=float).repeat(12, axis=0).repeat(12, axis=1)
    assert np.abs(shown - stored).mean() < 6


def test_other_training_images_are_noted_and_too_few_refused(fitted: Detector, files: dict[str, Path]) -> None:
    found = explain(fitted, files["fresh"], digits("train").subset(range(60)))
    assert "was fitted on 601 images" in found["notes"][0] and found["train"]["n"] == 60
    with pytest.raises(UserError, match="has 10 readable images: to tell what is typical takes 11"):
        explain(fitted, files["fresh"], digits("train").subset(range(10)))


def test_the_command_writes_a_page_that_needs_nothing_else(
    fitted: Detector, files: dict[str, Path], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted.save(tmp_path / "one.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "one.safetensors", str(files["texture"]), "--device", "cpu"]) == 0
    said, page = capsys.readouterr().out, (tmp_path / "texture.html").read_text(encoding="utf-8")
    assert "page: texture.html" in said and "least typical at" in said
    for part in ("Nearest training images at encoder", "How typical it is at every tap", "p-value", "<svg"):
        assert part in page
    assert page.count("data:image/jpeg;base64,") == 1 + 3 * 8
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_an_image_that_is_stored_otherwise_is_explained_as_it_is_scored(
    fitted: Detector, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 bits of 16: `score` took their range and `explain` did not, so the page was about an image nearly black."""
    fitted.save(tmp_path / "one.safetensors")
    grey = np.asarray(Image.open(files["fresh"]).convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "12.png")

    def decision(image: str, *words: str) -> str:
        command = ["explain", str(tmp_path / "one.safetensors"), str(tmp_path / image), "--device", "cpu"]
        assert main([*command, "-o", str(tmp_path / f"{image}.html"), *words]) == 0
        return capsys.readouterr().out.splitlines()[0]

    assert decision("12.png", "--value-range", "0,4080") == decision("8.png") != decision("12.png")
    train = digits("train")
    ranged = fitted.transform.pixels.model_copy(update={"value_range": (0.0, 4080.0)})
    found = explain(fitted, tmp_path / "12.png", train, pixels=ranged)
    assert found["taps"] == explain(fitted, tmp_path / "8.png", train)["taps"], "training images stay as they were"
    assert found["image"]["thumbnail"] == explain(fitted, tmp_path / "8.png", train)["image"]["thumbnail"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{fresh}", "--value-range", "9,1"], "what is black must be smaller"),
        (["none.png"], "Cannot read the image none.png (no such file)"),
        (["{broken}"], "(not an image, or its beginning is damaged)"),
        (["{fresh}", "--output", "{fresh}"], "fresh.png must end in .html"),
        (["{fresh}", "--train", "no/folder"], "No data at"),
        (["{fresh}", "--batch-size", "0"], "at least 1"),
    ],
)
def test_mistakes_are_one_line(words, message, fitted, files, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted.save(tmp_path / "one.safetensors")
    (tmp_path / "broken.png").write_bytes(b"no image")
    places = {name: str(path) for name, path in {**files, "broken": tmp_path / "broken.png"}.items()}
    words, before = [word.format(**places) for word in words], files["fresh"].read_bytes()
    assert main(["explain", str(tmp_path / "one.safetensors"), "-o", str(tmp_path / "x.html"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert files["fresh"].read_bytes() == before
