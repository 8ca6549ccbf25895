"""The page runs and loads nothing but its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ood_nc.report import write_comparison
from ood_nc.report.page import as_script
from tests.helpers.report_pages import read_data, read_page
from tests.helpers.report_runs import build_comparison, write_document

from .conftest import Written, load

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & \u2028'


def test_names_of_users_are_escaped(tmp_path: Path) -> None:
    taps = ("stem", EVIL, "encoder", "projector")
    runs, comparison = build_comparison(tmp_path, taps=taps, ood={EVIL: "far"}, detectors=("energy", EVIL))
    for run in runs:
        document = load(run)
        document["identity"] |= {"run": EVIL, "class_names": [EVIL], "notes": [EVIL], "model": EVIL}
        write_document(run, document)
        (run / "config.yaml").write_text(f"note: '{EVIL[:-1]}'\n", encoding="utf-8")
    page = read_page(write_comparison(runs, tmp_path / "out.html", comparison))
    assert len(page.all("script")) == 3
    assert not page.all("img")
    data = read_data(page)
    assert EVIL in data["taps"]
    assert EVIL in data["methods"]
    assert EVIL in [entry["name"] for entry in data["datasets"]]
    assert [run["name"] for run in data["runs"]] == [EVIL, f"{EVIL} (2)"]
    assert " ".join(EVIL.split()) in page.all("h1")[0].text


def test_script_data_cannot_end_the_script() -> None:
    text = as_script({"a": "</script><!-- \u2029 &"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!-- \u2029 &"}


def test_nothing_is_loaded_from_anywhere(two: Written) -> None:
    for element in two.page.all():
        for name in ("src", "href", "data-src", "action", "poster", "srcset"):
            value = element[name]
            assert not value or value.startswith(("#", "data:")), f"{element.tag} {name}={value}"
    style = two.page.all("style")[0].text
    assert "@import" not in style
    assert "url(" not in style
    own = two.page.all("script")[-1].text
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", own)


def test_plotly_is_inlined_once(two: Written) -> None:
    assert two.path.read_text(encoding="utf-8").count("* plotly.js v") == 1
