"""Report, comparison and the page on a decision without a mouse and by axe: light, dark, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report.explanation import write_explanation
from tests.helpers.browser import chromium, prefer, violations, wait_for

from .conftest import Written
from .test_explanation import document

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SCREENS = [("light", 1280), ("dark", 1280), ("light", 390)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(one: Written, two: Written, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    explained = tmp_path_factory.mktemp("explained") / "page.html"
    write_explanation(document(), explained)
    return {"report": one.path, "comparison": two.path, "explanation": explained}


def open_page(browser: Any, path: Path, **screen: Any) -> None:
    prefer(browser, **screen)
    browser.get(path.as_uri())
    if browser.execute_script("return document.querySelector('.chart') !== null"):
        wait_for(browser, "document.documentElement.dataset.ready === 'true'", seconds=120)


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
@pytest.mark.parametrize("name", ["report", "comparison", "explanation"])
def test_axe_finds_nothing(browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    open_page(browser, pages[name], scheme=scheme, width=width)
    assert violations(browser) == []


WALK = """
const wanted = 'a[href], button, select, summary, input, [tabindex="0"]';
return [...document.querySelectorAll(wanted)].filter(e => e.checkVisibility() && !e.closest('[hidden]')).length;
"""
FOCUSED = """
const e = document.activeElement, style = getComputedStyle(e);
if (e === document.body) return null;
e.dataset.seen = (+e.dataset.seen || 0) + 1;
const box = e.getBoundingClientRect();
return {name: e.outerHTML.slice(0, 120), seen: +e.dataset.seen, outline: style.outlineStyle,
        inside: box.bottom > 0 && box.top < innerHeight, size: box.width * box.height};
"""


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.parametrize("name", ["report", "comparison", "explanation"])
def test_tab_reaches_everything_in_turn_and_shows_where_it_is(browser: Any, pages: dict[str, Path], name: str) -> None:
    open_page(browser, pages[name])
    wanted, reached = browser.execute_script(WALK), []
    for _ in range(wanted + 5):
        press(browser, "\ue004")
        found = browser.execute_script(FOCUSED)
        if found is None or found["seen"] > 1:  # behind the last one
            break
        reached.append(found)
    assert len(reached) == wanted > 0
    unseen = [found for found in reached if found["outline"] == "none" or not found["inside"] or not found["size"]]
    assert unseen == []


def focus(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).focus()", selector)


def test_menus_column_heads_legends_and_details_work_by_keys(browser: Any, pages: dict[str, Path]) -> None:
    open_page(browser, pages["comparison"])
    focus(browser, "#table-detectors thead .sort[data-column='1']")
    sorted_ = "document.activeElement.closest('th').getAttribute('aria-sort')"
    press(browser, "\ue007")
    first = wait_for(browser, sorted_)
    press(browser, "\ue007")
    assert {first, wait_for(browser, sorted_)} == {"ascending", "descending"}
    focus(browser, "#legend-detection button")
    press(browser, " ")
    assert browser.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "false"
    focus(browser, "#figure-detection select[data-control=detector]")
    before = browser.execute_script("return document.activeElement.value")
    press(browser, "\ue015")
    assert browser.execute_script("return document.activeElement.value") != before
    open_page(browser, pages["explanation"])
    focus(browser, "summary")
    press(browser, "\ue007")
    assert browser.execute_script("return document.querySelector('details').open")
