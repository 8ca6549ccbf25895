from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ood_nc.report.gallery import gallery

PICTURE = "data:image/jpeg;base64,/9j/4AAQ"


def run(name: str, thumbnails: Any = None, **more: Any) -> Any:
    image = {"id": "a.png", "score": 1.0, "percentiles": {"stem": 3.2, "encoder": 96.6}, "near": [["b.png", "cat"]]}
    rows = [
        {"dataset": data, "kind": kind, "images": [image]}
        for data, kind in (("id_test", "rejected"), ("svhn", "accepted"))
    ]
    pictures = {"id_test": {"a.png": PICTURE}, "svhn": {"a.png": PICTURE}, "id_train": {"b.png": PICTURE}}
    shown = {"tap": "encoder", "detector": "knn", "rows": rows, "thumbnails": thumbnails or pictures, **more}
    return SimpleNamespace(name=name, directory=Path(), gallery=shown)


def test_rows_have_titles_pictures_neighbours_and_percentiles() -> None:
    found = gallery([run("one")])
    assert found is not None and [row["title"] for row in found["rows"]] == [
        "Held-out ID images rejected most confidently",
        "svhn: accepted most confidently",
    ]
    (image,) = found["rows"][1]["images"]
    assert image["source"] == image["near"][0]["source"] == PICTURE
    assert image["near"][0]["label"] == "cat" and image["percentiles"] == "stem 3, encoder 97"


def test_the_last_run_with_images_is_shown_and_none_is_no_section() -> None:
    old = SimpleNamespace(name="old", gallery={})
    assert gallery([run("a"), run("b"), old])["run"] == "b"  # type: ignore[index]
    assert gallery([old]) is None  # type: ignore[list-item]


def test_nothing_but_a_picture_becomes_an_address() -> None:
    for bad in (
        "https://example.org/x.jpg",
        "javascript:alert(1)",
        'data:image/jpeg;base64,AA" onload="x',
        "data:text/html,x",
    ):
        found = gallery([run("one", {"id_test": {"a.png": bad}, "svhn": {}, "id_train": {}})])
        assert found is not None and found["rows"][0]["images"][0]["source"] == ""
