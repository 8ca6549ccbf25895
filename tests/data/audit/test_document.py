"""A benchmark with every fault planted, and one without any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageOps

from ood_nc.config import DataConfig
from ood_nc.data.audit import audit_data
from tests.helpers.pictures import picture, save

N = 30
CLASSES = ("cat", "dog")


def make(root: Path, name: str, first: int, count: int = N, classes: tuple[str, ...] = CLASSES, **settings) -> None:
    """Class folders of fresh pictures, all stored alike unless said otherwise."""
    for number, one in enumerate(classes):
        seeds = range(first + number * count, first + (number + 1) * count)
        save(root / name / one, map(picture, seeds), **{"kind": "jpg", "quality": 92, **settings})


def config(root: Path, *ood: str) -> DataConfig:
    return DataConfig(root=str(root), train="train", test="test", ood={name: {"source": name} for name in ood})


def of_kind(document: dict, kind: str) -> dict[tuple[str, str], dict]:
    return {(one["first"], one["second"]): one for one in document["shared"] if one["kind"] == kind}


def test_a_clean_benchmark_has_nothing_to_note(tmp_path: Path) -> None:
    make(tmp_path, "train", 0)
    make(tmp_path, "test", 1000)
    make(tmp_path, "birds", 2000, classes=("crow", "wren"))
    make(tmp_path, "boats", 3000, classes=("ferry", "yacht"))
    document = audit_data(config(tmp_path, "birds", "boats"), name="clean")
    assert document["findings"] == []
    assert [one["name"] for one in document["sets"]] == ["ID train", "ID test", "birds", "boats"]
    assert {one["state"] for one in document["sets"]} == {"there"}
    assert {(one["n"], tuple(one["formats"])) for one in document["sets"]} == {(60, ("JPEG",))}
    assert all(one["low"] < 0.6 and one["against"] == "ID test" for one in document["cues"])
    json.dumps(document, allow_nan=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("planted")
    make(root, "train", 0)
    make(root, "test", 1000)
    for name, first in (("twins", 2000), ("classes", 3000), ("large", 4000), ("damaged", 5000)):
        make(root, name, first, classes=("crow", "wren"))
    # Copies: three of ID test in an OOD set, one of ID train in ID test under another name.
    for index in range(3):
        (root / "twins/wren" / f"copy{index}.jpg").write_bytes((root / f"test/dog/00{index}.jpg").read_bytes())
    (root / "test/cat/again.jpg").write_bytes((root / "train/cat/004.jpg").read_bytes())
    # Near duplicates of ID train in an OOD set: encoded again, resized, brighter, mirrored.
    for index, change in enumerate(
        (
            lambda image: image,
            lambda image: image.resize((48, 40), Image.Resampling.BICUBIC),
            lambda image: ImageEnhance.Brightness(image).enhance(1.25),
            ImageOps.mirror,
        )
    ):
        change(picture(10 + index)).save(root / f"twins/crow/near{index}.jpg", quality=40)
    # Classes.
    (root / "classes/wren").rename(root / "classes/Dog")
    # A cue in each of three sets.
    save(root / "large/crow", (picture(4000 + index, (192, 160)) for index in range(N)), "jpg", quality=92)
    make(root, "coarse", 6000, classes=("crow", "wren"), quality=60)
    for path in sorted((root / "damaged").rglob("*.jpg")):
        Image.open(path).convert("L").convert("RGB").save(path, quality=92)
    (root / "damaged/crow/003.jpg").write_bytes((root / "damaged/crow/003.jpg").read_bytes()[:700])
    (root / "damaged/wren/005.jpg").write_bytes(b"no image")
    ood = ("twins", "classes", "large", "coarse", "damaged", "absent")
    known = {
        "absent": {"images": 7, "get": "example.org/absent"},
        "coarse": {"images": 61, "get": "example.org/coarse"},
    }
    return audit_data(config(root, *ood), name="planted", known=known)


def test_copies_are_found_in_full(planted: dict) -> None:
    copies = of_kind(planted, "copies")
    assert {pair: one["count"] for pair, one in copies.items()} == {
        ("ID train", "ID test"): 1,
        ("ID test", "twins"): 3,
    }
    assert copies["ID test", "twins"]["examples"] == [f"wren/copy{index}.jpg" for index in range(3)]


def test_near_duplicates_are_found_in_full(planted: dict) -> None:
    near = of_kind(planted, "near")
    assert set(near) == {("ID train", "twins")}
    pairs = near["ID train", "twins"]["examples"]
    assert [(one["second"], one["first"]) for one in pairs] == [
        (f"crow/near{index}.jpg", f"cat/0{10 + index}.jpg") for index in range(4)
    ]
    assert [one["mirrored"] for one in pairs] == [False, False, False, True]


def test_shared_classes_are_found_in_full(planted: dict) -> None:
    assert {pair: one["examples"] for pair, one in of_kind(planted, "classes").items()} == {
        ("ID train", "classes"): ["Dog"]
    }


def test_cues_are_found_in_full(planted: dict) -> None:
    told_by = {one["name"]: one["told_by"] for one in planted["cues"]}
    assert told_by == {"twins": [], "classes": [], "large": ["size"], "coarse": ["compression"], "damaged": ["grey"]}
    cues = {one["name"]: one for one in planted["cues"]}
    assert cues["coarse"]["auroc"] == 1 and cues["large"]["auroc"] == pytest.approx(0.75, abs=0.1), "half of them"


def test_states_and_broken_files(planted: dict) -> None:
    sets = {one["name"]: one for one in planted["sets"]}
    assert {name: one["state"] for name, one in sets.items() if one["state"] != "there"} == {
        "coarse": "changed",
        "absent": "unreadable",
    }
    assert sets["coarse"]["reason"] == "60 images, the suite says 61"
    assert sets["absent"]["get"] == "example.org/absent" and "get" not in sets["twins"]
    assert [name for name, _ in sets["damaged"]["broken"]["first"]] == ["crow/003.jpg", "wren/005.jpg"]


def test_every_finding_is_a_line(planted: dict) -> None:
    lines = planted["findings"]
    assert len(lines) == 3 + 2 + 1 + 1 + 3
    text = "\n".join(lines)
    for part in (
        "absent: unreadable: No data at ",
        "Get it: example.org/absent",
        "twins: 3 of 67 images are also in ID test (first: wren/copy0.jpg)",
        "twins: 4 of 67 images nearly equal one of ID train (first: crow/near0.jpg and cat/010.jpg, correlation 0.9",
        "classes: 1 of 2 classes are also classes of ID train (Dog)",
        "coarse: cues alone tell it from ID test, AUROC 1.00 [1.00, 1.00]: compression 1.00",
        "damaged: 2 of 60 images cannot be read (first: crow/003.jpg",
    ):
        assert part in text


def test_files_of_a_list_that_are_not_there_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "train", 0, count=3)
    listed = [f"train/{name}/{index:03d}.jpg {label}" for label, name in enumerate(CLASSES) for index in range(4)]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    document = audit_data(
        DataConfig(root=str(tmp_path), train="train", test=None, ood={"listed": "list.txt"}), name="l"
    )
    entry = document["sets"][1]
    assert entry["absent"] == {"count": 2, "first": ["train/cat/003.jpg", "train/dog/003.jpg"]}
    assert entry["broken"]["count"] == 0
    assert of_kind(document, "copies")["ID train", "listed"]["count"] == 6


def test_the_parts_of_a_transfer_task_are_compared_with_each_other_alone(tmp_path: Path) -> None:
    make(tmp_path, "train", 0, count=6)
    make(tmp_path, "task", 500, count=6)
    data = DataConfig(
        root=str(tmp_path), train="train", test=None, transfer={"task": {"train": "task", "test": "task"}}
    )
    assert set(of_kind(audit_data(data, name="t"), "copies")) == {("task/train", "task/test")}


def test_a_covariate_shifted_set_is_read_and_compared_with_nothing(tmp_path: Path) -> None:
    make(tmp_path, "train", 0, count=6)
    make(tmp_path, "shifted", 0, count=6, quality=20)
    data = DataConfig(
        root=str(tmp_path), train="train", test=None, ood={"shifted": {"source": "shifted", "group": "covariate"}}
    )
    document = audit_data(data, name="s")
    assert document["sets"][1]["state"] == "there" and document["sets"][1]["n"] == 12
    assert document["shared"] == document["cues"] == document["findings"] == []
