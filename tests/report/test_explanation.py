from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report.explanation import write_explanation

PIXEL = "data:image/jpeg;base64,AAAA"
NEAR = [{"id": "a/1.jpg", "class": "<b>cat</b>", "distance": 0.25, "thumbnail": PIXEL}]


def document(**changes: Any) -> dict[str, Any]:
    taps = [
        {
            "name": name,
            "read": name == "encoder",
            "percentile": percentile,
            "distance": 0.5,
            "usual": 0.4,
            "nearest": NEAR,
        }
        for name, percentile in (("layer1", 61.2), ("encoder", 0.0))
    ]
    return {
        "image": {"name": "new <1>.jpg", "thumbnail": PIXEL},
        "accepted": False, "score": -3.0, "p_value": 0.0099, "threshold": -2.0, "tpr": 0.95, "prediction": "cat",
        "detectors": ["knn on encoder"], "histogram": {"edges": [-4.0, -2.0, 0.0], "counts": [5, 10]},
        "taps": taps, "train": {"name": "pets", "n": 100}, "notes": ["a note"], **changes,
    }  # fmt: skip


def page(tmp_path: Path, **changes: Any) -> str:
    write_explanation(document(**changes), tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_decision_taps_and_neighbours_stand_in_the_page(tmp_path: Path) -> None:
    text = page(tmp_path)
    for part in (
        "Rejected as out-of-distribution",
        "-3 (below the threshold -2)",
        "0.0099",
        'class="read">encoder',
        "width: 61.2%",
        "Nearest training images at encoder",
        "Note: a note.",
        "new &lt;1&gt;.jpg",
        "&lt;b&gt;cat&lt;/b&gt;",
    ):
        assert part in text, part
    assert text.partition("<main>")[2].count("<h1>") == 1 and "<h1>" not in text.partition("<main>")[0]
    assert "Accepted as in-distribution" in page(tmp_path, accepted=True, score=-1.0)


def test_the_drawing_is_to_scale(tmp_path: Path) -> None:
    text = page(tmp_path)
    bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', text)
    assert [tuple(map(float, bar)) for bar in bars] == [(0, 60, 239, 60), (240, 0, 239, 120)]
    lines = re.findall(r'<line x1="([\d.]+)"', text)
    assert [float(x) for x in lines] == [0, 240, 120], "axis, threshold, image"


@pytest.mark.parametrize("threshold", [float("-inf"), 7.0])
def test_a_threshold_off_the_scale_is_not_drawn(threshold: float, tmp_path: Path) -> None:
    assert "stroke-dasharray" not in page(tmp_path, threshold=threshold)
