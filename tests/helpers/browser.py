"""Chromium for tests and for pictures, and what axe finds in the page that it shows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver of a headless Chromium; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if program is None or chromedriver is None:
        pytest.skip("needs Chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver)) as driver:
        yield driver


def wait_for(browser: Any, script: str, seconds: float = 20) -> Any:
    """The value of a JavaScript expression, once it is a true one."""
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < end, f"never true: {script}"
        time.sleep(0.03)
    return found


def prefer(browser: Any, *, scheme: str = "light", medium: str = "", width: int = 1280, scale: float = 1) -> None:
    """What the reader has: a colour scheme, a medium (``print``), a screen so wide, of so many dots a pixel."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},  # what is pressed shows at once
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
    screen = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def violations(browser: Any) -> list[str]:
    """What axe finds against the WCAG (A and AA) and its best practices: rule, place, what is wrong."""
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    browser.set_script_timeout(120)
    browser.execute_script((resources.files(package) / "axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [
        f"{rule['id']}: {node['target']} {' '.join((node.get('failureSummary') or '').split())}"
        for rule in found
        for node in rule["nodes"]
    ]
