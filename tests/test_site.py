"""Every code block of the site is run or checked: commands against their options and the schema, Python by mypy.

The pages of docs/howto are run from top to bottom by tests/test_howto.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ood_nc import cli
from ood_nc.cli import flags
from ood_nc.config import load
from tests.helpers.browser import chromium, prefer, violations, wait_for

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^    (?:\$ )?(?:ood-nc|torchrun [^\n]*?-m ood_nc) ([^\n]*?)(?:\s+#[^\n]*)?$", re.M)
TEXTS = {page: re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")) for page in PAGES}  # lines that go on, joined
COMMANDS = sorted({(page.name, found) for page, text in TEXTS.items() for found in COMMAND.findall(text)})
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BLOCKS = [
    (page, number, block)
    for page, text in TEXTS.items()
    for number, block in enumerate(block for kind, block in FENCE.findall(text) if kind == "python")
]
GIVEN = """from typing import Any
import numpy as np
rng: Any = np.random.default_rng(0)
images: Any = None
labels: Any = np.arange(60) % 3
W, b = np.eye(3, 8), np.zeros(3)
features, new_features = rng.normal(size=(60, 8)) + labels[:, None], rng.normal(size=(9, 8))
logits, new_logits = features @ W.T, new_features @ W.T
"""
"""What the text says that the reader has."""


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_is_one_that_there_is_and_its_keys_are_the_schemas(page, command):
    name, *rest = shlex.split(command)
    if name.startswith("--"):
        return
    _, parsers = cli._parsers({name})
    assert name in parsers, page
    if cli._COMMANDS[name].takes_config:
        overrides, rest = flags.split(rest, set(cli._options(parsers[name])))
        load(None, overrides)
    parsers[name].parse_args(rest)


def test_every_block_is_of_a_kind_that_is_checked():
    for page, text in TEXTS.items():
        if page.name == "README.md":
            continue
        for kind, block in FENCE.findall(text):
            assert kind in ("python", "toml", "bash", "yaml", "text"), page
            if kind == "yaml":
                load(None, yaml.safe_load(block))
        for block in re.findall(r"(?:^|\n)\n((?:    [^\n]*\n)+)", FENCE.sub("", text)):
            if re.match(r"    \w+:\n", block):
                load(None, yaml.safe_load(block))
            elif not block.startswith("    $ "):  # what follows such a command is its output
                for line in block.splitlines():
                    assert COMMAND.match(line) or checked(line.strip()), f"{page.name}: {line}"


def checked(line):
    """Whether a line is a command that is not ours, and names what there is."""
    program, *words = shlex.split(line, comments=True)
    return program in ("pip", "pytest") or (program == "python" and (ROOT / words[0]).is_file())


@pytest.mark.parametrize(
    "script", [block for text in TEXTS.values() for kind, block in FENCE.findall(text) if kind == "bash"]
)
def test_a_shell_script_is_one(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
def test_python_blocks_have_the_types_that_they_need(tmp_path):
    for page, number, block in BLOCKS:
        own = "" if page.parent.name == "howto" else GIVEN
        (tmp_path / f"{page.stem.replace('-', '_')}_{number}.py").write_text(own + block, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--cache-dir", str(ROOT / ".mypy_cache"), "."]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "number"), [("detectors.md", 0), ("README.md", 1)])
def test_what_needs_arrays_alone_runs(name, number):
    (block,) = [block for page, at, block in BLOCKS if (page.name, at) == (name, number)]
    space: dict[str, object] = {}
    exec(GIVEN + block.replace("dim=512", "dim=8").replace("num_classes=10", "num_classes=3"), space)
    assert "scores" in space


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(site):
    assert "fpr95_id_positive" in (site / "reference" / "metrics.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "Plotly.newPlot(" in page or "<caption>Results(" in page, path
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=.?(?:https?:)?//", page.read_text(encoding="utf-8")
        )
        assert fetched == [], page  # nothing comes from a network


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_site(site, browser, scheme, width):
    for page in ("index.html", "report.html", "concepts/collapse.html", "reference/glossary.html"):
        prefer(browser, scheme=scheme, width=width)
        browser.get((site / page).as_uri())
        browser.execute_script("localStorage.clear()")  # the theme keeps what it began with
        browser.refresh()
        wanted = {"light": "default", "dark": "slate"}[scheme]
        wait_for(browser, f"document.body.getAttribute('data-md-color-scheme') === '{wanted}'")
        assert violations(browser) == [], page


@pytest.mark.slow
@pytest.mark.browser
def test_the_colours_of_the_site_are_switched_by_keys(site, browser):
    from selenium.webdriver import ActionChains, Keys

    prefer(browser)
    browser.get((site / "index.html").as_uri())
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    wait_for(browser, f"{scheme} === 'default'")
    for _ in range(20):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        if browser.execute_script("return document.activeElement.name") == "__palette":
            break
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    wait_for(browser, f"{scheme} === 'slate'")


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_searched_is_found_from_the_disk_without_a_network(site, browser):
    from selenium.webdriver import ActionChains

    prefer(browser)
    browser.get_log("browser")
    browser.get((site / "howto" / "features.html").as_uri())
    wait_for(browser, "document.readyState === 'complete'")
    ActionChains(browser).send_keys("/").perform()
    wait_for(browser, "document.activeElement.matches('.md-search__input')")
    ActionChains(browser).send_keys("conformal").perform()
    wait_for(browser, "document.querySelector('.md-search-result__item a[href*=\"p-values\"]') !== null")
    assert browser.get_log("browser") == []
