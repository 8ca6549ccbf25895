"""The pictures of a report show the part that is named, whatever scrolls above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import site_pictures

PAGE = """<!doctype html><html data-ready="true"><body style="margin: 0; background: white">
<div style="overflow-x: auto"><div style="width: 2000px; height: 900px; background: blue"></div></div>
<h2 style="margin: 0; height: 50px; background: red"></h2><p style="margin: 0; height: 1198px; background: red"></p>
<div style="height: 9000px; background: blue"></div>
"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_picture_is_of_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text(PAGE)
    monkeypatch.setattr(site_pictures, "FOLDER", tmp_path)
    monkeypatch.setattr(site_pictures, "PICTURES", {"part": (("h2", "p"), 600, "light")})
    site_pictures.take(tmp_path / "report.html")
    pixels = np.asarray(Image.open(tmp_path / "part.webp").convert("RGB")).astype(int)
    is_red = (np.abs(pixels - [255, 0, 0]) < 40).all(axis=(1, 2))
    rows = is_red.nonzero()[0]
    assert len(rows) == pytest.approx(1.25 * 1248, abs=6) and rows[-1] - rows[0] < len(rows) + 2
    assert rows[0] <= 12 and len(is_red) - rows[-1] <= 12
