"""Streaming: the rows are those of the detector, and neither an interruption nor a broken file loses any."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from ood_nc.data import NoImagesError, open_dataset
from ood_nc.deployment import Detector, fit_detector, score_images
from ood_nc.errors import UserError
from ood_nc.files import write_lock
from ood_nc.models import ControlledModel
from ood_nc.scores import benjamini_hochberg
from tests.deployment.conftest import digits, halves, near


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for name, dataset in (("near", near()), ("id", open_dataset("bundled/digits-transfer::train"))):
        for index in range(30):
            dataset.load(index).save(root / f"{name}{index:02d}.png")
    (root / "near99.png").write_bytes(b"broken")
    return root


def test_rows_are_those_of_the_detector(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    summary = score_images(fitted, [folder], tmp_path / "s.parquet", batch_size=7, workers=2, fdr=0.2)
    table = pq.read_table(tmp_path / "s.parquet").to_pylist()
    names = sorted(path.name for path in folder.iterdir())
    assert [Path(row["id"]).name for row in table] == names
    assert [row["id"] for row in table if row["error"]] == [f"{folder}/near99.png"]
    readable = [row for row in table if not row["error"]]
    verdict = fitted([Path(row["id"]) for row in readable])
    np.testing.assert_allclose([row["score"] for row in readable], verdict.scores, rtol=1e-5)
    np.testing.assert_allclose([row["p_value"] for row in readable], verdict.p_values)
    assert [row["accepted"] for row in readable] == verdict.accepted.tolist()
    assert [row["prediction"] for row in readable] == verdict.predicted_names
    assert [row["discovery"] for row in readable] == benjamini_hochberg(verdict.p_values, 0.2).tolist()
    broken = next(row for row in table if row["error"])
    assert (broken["score"], broken["accepted"], broken["discovery"]) == (None, None, False)
    assert (summary.images, summary.broken, summary.resumed) == (61, 1, 0)
    assert summary.accepted == sum(row["accepted"] for row in readable)
    assert summary.discoveries == sum(row["discovery"] for row in readable)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "s.parquet"]


def test_csv_holds_the_same(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    score_images(fitted, [folder], tmp_path / "s.parquet")
    score_images(fitted, [folder], tmp_path / "s.csv")
    read = pyarrow.csv.read_csv(tmp_path / "s.csv")
    expected = pq.read_table(tmp_path / "s.parquet")
    assert read["id"].to_pylist() == expected["id"].to_pylist()
    np.testing.assert_array_equal(
        np.array(read["score"].to_pylist(), dtype=float), np.array(expected["score"].to_pylist(), dtype=float)
    )


def test_interrupted_work_goes_on_where_it_stopped(
    fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_images(fitted, [folder], tmp_path / "whole.parquet", batch_size=8)
    seen = []
    call = Detector.__call__

    def stopping(self, images):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(images))
        return call(self, images)

    monkeypatch.setattr(Detector, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        score_images(fitted, [folder], tmp_path / "s.parquet", batch_size=8)
    assert not (tmp_path / "s.parquet").exists()
    monkeypatch.setattr(Detector, "__call__", call)
    summary = score_images(fitted, [folder], tmp_path / "s.parquet", batch_size=8)
    assert summary.resumed == 24
    found, expected = (pq.read_table(tmp_path / name).to_pylist() for name in ("s.parquet", "whole.parquet"))
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    scores = ([row["score"] or 0 for row in rows] for rows in (found, expected))
    np.testing.assert_allclose(*scores, rtol=1e-6)
    assert not (tmp_path / "s.parquet.parts").exists()


def test_an_output_among_the_images_is_none_of_them(fitted: Detector, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("ood_nc.deployment.parts._ROWS", 7)
    output = folder / "many.csv"  # before near*.png, so that its parts would move all of these

    def stop(table: pa.Table) -> None:
        if "near07" in str(table["id"]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_images(fitted, [folder], output, batch_size=7, on_table=stop)
    score_images(fitted, [folder], output, batch_size=7)
    summary = score_images(fitted, [folder], output, overwrite=True)
    assert (summary.images, summary.broken) == (61, 1)
    names = [Path(name).name for name in pyarrow.csv.read_csv(output)["id"].to_pylist()]
    assert names == sorted(path.name for path in folder.glob("*.png"))


def test_parts_of_other_work_are_not_continued(
    fitted: Detector, model: ControlledModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Detector.__call__

    def interrupt(keep: int) -> None:
        seen: list[int] = []

        def stopping(self, images):
            if len(seen) == keep:
                raise KeyboardInterrupt
            seen.append(0)
            return call(self, images)

        monkeypatch.setattr(Detector, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_images(fitted, [folder], tmp_path / "s.parquet", batch_size=8)
        monkeypatch.setattr(Detector, "__call__", call)

    interrupt(1)
    held_out, _ = halves(digits("test"))
    other = fit_detector(model, digits("train"), held_out, detectors=["energy"])
    with pytest.raises(UserError, match="an interrupted call of another detector or on other sources"):
        score_images(other, [folder], tmp_path / "s.parquet", batch_size=8)
    (folder / "id00.png").unlink()
    with pytest.raises(UserError, match=r"The images changed since .*s\.parquet\.parts was written"):
        score_images(fitted, [folder], tmp_path / "s.parquet", batch_size=8)


def stopped(detector: Detector, sources: list[Path], output: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stop a call by Ctrl-C after so many batches of eight, and return what it said."""
    call, seen = Detector.__call__, []

    def stopping(self, images):
        if len(seen) == after:
            raise KeyboardInterrupt
        seen.append(0)
        return call(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            score_images(detector, sources, output, batch_size=8)
    return str(interrupt.value)


def test_an_archive_that_was_replaced_is_not_gone_on_with(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    def pack(first: str, seconds: int) -> None:
        with zipfile.ZipFile(archive, "w") as packed:
            for index in range(9):
                packed.write(folder / f"{first}{index:02d}.png", f"{index}.png")
        os.utime(archive, (seconds, seconds))

    def stop(table: object) -> None:
        if (tmp_path / "s.csv.parts" / "call").exists() and next(calls) == 1:
            raise KeyboardInterrupt

    archive, calls = tmp_path / "images.zip", iter(range(9))
    pack("near", 1000)
    with pytest.raises(KeyboardInterrupt):
        score_images(fitted, [archive], tmp_path / "s.csv", batch_size=4, on_table=stop)
    pack("id", 2000)
    with pytest.raises(UserError, match="or on a file that changed since"):
        score_images(fitted, [archive], tmp_path / "s.csv", batch_size=4)
    pack("near", 1000)
    assert score_images(fitted, [archive], tmp_path / "s.csv", batch_size=4).resumed == 4


@pytest.mark.parametrize("place", ["folder", "list"])
def test_an_image_that_was_replaced_after_it_was_scored_is_not_gone_on_with(
    place: str, fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, scored, later = folder, folder / "id03.png", folder / "near03.png"
    if place == "list":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())))
    for name in ("replaced", "grown"):
        output, before = tmp_path / f"{name}.csv", scored.read_bytes()
        stopped(fitted, [source], output, 1, monkeypatch)
        if name == "replaced":
            scored.write_bytes(later.read_bytes())
        else:
            status = scored.stat()
            scored.write_bytes(before + b"x")
            os.utime(scored, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(UserError, match=rf"images changed since .*\.parts was written \(image 4 of it, {scored},"):
            score_images(fitted, [source], output, batch_size=8)
    stopped(fitted, [source], tmp_path / "s.csv", 1, monkeypatch)
    os.utime(later)  # not scored yet
    assert score_images(fitted, [source], tmp_path / "s.csv", batch_size=8).resumed == 8
    assert "stamp" not in (tmp_path / "s.csv").read_text().partition("\n")[0]


def test_an_interrupted_call_says_how_to_go_on(
    fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = stopped(fitted, [folder], tmp_path / "s.csv", 2, monkeypatch)
    assert said == f"What is scored is kept in {tmp_path / 's.csv.parts'}: the same command goes on with it."


@pytest.mark.parametrize("left", [2, 1, 0])
def test_a_call_that_was_killed_while_it_tidied_up_is_finished(
    left: int, fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, parts = tmp_path / "s.parquet", tmp_path / "s.parquet.parts"
    score_images(fitted, [folder], tmp_path / "whole.parquet", batch_size=8)
    stopped(fitted, [folder], output, 1, monkeypatch)
    stopped(fitted, [folder], output, 1, monkeypatch)
    for path in sorted(parts.glob("part-*"))[left:]:
        path.unlink()
    pq.write_table(pq.read_table(tmp_path / "whole.parquet"), output)
    summary = score_images(fitted, [folder], output, batch_size=8)
    assert (summary.images, summary.resumed) == (61, 8 * left)
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not parts.exists()


def test_damaged_parts_are_told(
    fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, parts = tmp_path / "s.parquet", tmp_path / "s.parquet.parts"
    for _ in range(2):
        stopped(fitted, [folder], output, 1, monkeypatch)
    for name in ("call", "part-00000001"):
        whole = (parts / name).read_bytes()
        for damaged in (whole[:-70], whole[:10] + b"x" + whole[11:], b"", b"{" * 5000):
            (parts / name).write_bytes(damaged)
            with pytest.raises(UserError, match=r"is damaged.* Remove the folder .*s\.parquet\.parts"):
                score_images(fitted, [folder], output)
        (parts / name).write_bytes(whole)
    (parts / "part-00000000").unlink()
    with pytest.raises(UserError, match=r"A part before .*part-00000001 is gone"):
        score_images(fitted, [folder], output)


def test_one_writer_at_a_time(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.csv"
    with write_lock(output), pytest.raises(UserError, match=r"s\.csv is being written by process \d+"):
        score_images(fitted, [folder], output)
    assert not output.exists()


def test_a_full_disk_keeps_what_is_there(
    fitted: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = tmp_path / "s.parquet"
    for what in ("ood_nc.deployment.parts.write_sealed_bytes", "ood_nc.deployment.parts.pq.ParquetWriter"):
        with monkeypatch.context() as patch:
            patch.setattr(what, full)
            with pytest.raises((UserError, OSError), match="No space left on"):
                score_images(fitted, [folder], output)
    assert score_images(fitted, [folder], output).resumed == 61


def test_names_that_spreadsheets_would_compute(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near().load(0).save("=1+1.png")
    score_images(fitted, ["=1+1.png"], "s.csv")
    score_images(fitted, ["=1+1.png"], "s.parquet")
    assert pyarrow.csv.read_csv("s.csv")["id"].to_pylist() == ["'=1+1.png"]
    assert pq.read_table("s.parquet")["id"].to_pylist() == ["=1+1.png"]


def test_nothing_is_overwritten_unasked(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.csv"
    output.write_text("precious")
    with pytest.raises(UserError, match="is there already"):
        score_images(fitted, [folder], output)
    assert output.read_text() == "precious"
    score_images(fitted, [folder], output, overwrite=True)
    assert output.read_text().startswith('"id","score"')


def test_mistakes(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.parquet or \.csv"):
        score_images(fitted, [folder], tmp_path / "s.txt")
    with pytest.raises(UserError, match="No image, folder or archive"):
        score_images(fitted, [folder / "nope"], tmp_path / "s.csv")
    with pytest.raises(UserError, match="give an output file"):
        score_images(fitted, [folder], fdr=0.1)
    with pytest.raises(UserError, match=r"must be in \(0, 1\)"):
        score_images(fitted, [folder], tmp_path / "s.csv", fdr=1.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="No images in"):
        score_images(fitted, [tmp_path / "empty"], tmp_path / "s.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "images"]


def test_only_broken_images(fitted: Detector, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    tables = []
    summary = score_images(fitted, [tmp_path / "a.png", tmp_path / "b.png"], on_table=tables.append)
    assert (summary.images, summary.broken, summary.accepted) == (2, 2, 0)
    assert all(row["error"] for row in tables[0].to_pylist())


def test_names_that_are_no_text(fitted: Detector, tmp_path: Path) -> None:
    image = near().load(0)
    raw = bytes(tmp_path) + b"/caf\xe9.png"
    image.save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(raw.decode("utf-8", "surrogateescape"))
    tables = []
    score_images(fitted, [tmp_path], on_table=tables.append)
    assert tables[0]["id"].to_pylist() == [rf"{tmp_path}/caf\xe9.png"]
    assert torch.isfinite(torch.tensor(tables[0]["score"].to_pylist())).all()
