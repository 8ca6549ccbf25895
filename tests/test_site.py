"""Every command on the site is one that there is, every Python block compiles, and those that need nothing run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ood_nc import cli
from ood_nc.cli import flags

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
COMMAND = re.compile(r"^    (?:\$ )?(ood-nc .*?)(?:\s+#.*)?$", re.M)
TEXTS = {page: re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")) for page in PAGES}  # lines that go on, joined
COMMANDS = sorted({(page.name, found) for page, text in TEXTS.items() for found in COMMAND.findall(text)})
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BLOCKS = [
    (page, number, block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_is_one_that_there_is(page, command):
    words = shlex.split(command)[1:]
    if words[0].startswith("--"):
        return
    name = words[0]
    _, parsers = cli._parsers({name})
    assert name in parsers, page
    rest = words[1:]
    if cli._COMMANDS[name].takes_config:
        _, rest = flags.split(rest, set(cli._options(parsers[name])))
    parsers[name].parse_args(rest)


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=lambda value: getattr(value, "name", None))
def test_a_python_block_compiles_and_imports_what_there_is(page, number, block):
    compile(block, f"{page.name}, block {number}", "exec")
    imports = [line for line in block.splitlines() if line.startswith(("import ", "from "))]
    exec("\n".join(imports), {})


def test_what_needs_no_file_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for page, _, block in BLOCKS if page.name == "features.md"]
    exec(block, {})
    assert re.search(r"^knn 0\.9|^knn 1", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_gave(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert book["cells"][0]["source"][0].startswith("# ") and len(cells) > 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_the_gallery_holds_what_its_page_lists_small_and_without_places_of_a_machine():
    folder = ROOT / "docs" / "gallery"
    listed = re.findall(r"\]\(([\w-]+\.html)\)", (folder / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.html"))
    for path in folder.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size < 1_500_000 and not re.search(r"[\"' ]/(?:home|root|tmp|work|Users)/", text), path
        assert ("../assets/plotly.min.js" in text) == ("Plotly" in text), path


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for package in ("mkdocs", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fpr95_id_positive" in (tmp_path / "site" / "reference" / "metrics" / "index.html").read_text(
        encoding="utf-8"
    )
    for path in NOTEBOOKS:
        page = (tmp_path / "site" / "notebooks" / path.stem / "index.html").read_text(encoding="utf-8")
        assert "Plotly.newPlot(" in page or "<caption>Results(" in page, path
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=.?(?:https?:)?//", page.read_text(encoding="utf-8")
        )
        assert fetched == [], page  # nothing comes from a network
