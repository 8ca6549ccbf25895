"""The page on private fine-tuning runs, its statements hold (it asserts them), and docs/ holds what it writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "privacy.py"


@pytest.mark.slow
def test_the_page_in_docs_is_the_one_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opacus")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("privacy_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    page.main(tmp_path)
    assert (tmp_path / "privacy" / "pictures.svg").stat().st_size > 10_000
    assert (tmp_path / "privacy.md").read_text() == SCRIPT.with_suffix(".md").read_text()
