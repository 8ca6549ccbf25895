"""Pictures of a report for docs/report.md: python -m scripts.site_pictures runs/quickstart/report.html

Needs Chromium, chromedriver and selenium (extra `dev`).
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.browser import chromium, prefer, wait_for

FOLDER = Path(__file__).parent.parent / "docs" / "report"
MOST = 600_000
PICTURES: dict[str, tuple[tuple[str, str], int, str]] = {
    # name: first and last element that are in it, width of the window, colour scheme
    "headline": (("header.page", "#headline"), 1120, "light"),
    "layers": ((".views h3", "#figure-detection"), 1120, "light"),
    "trade-off": (("#trade-off ~ .controls", ".pair"), 1120, "light"),
    "detectors": (("#table-detectors thead", "#table-detectors tbody tr:nth-child(6)"), 1120, "light"),
    "phone": (("header.page", "#verdict"), 390, "dark"),
}
BOX = """
const [first, last] = [arguments[0], arguments[1]].map(name => document.querySelector(name).getBoundingClientRect());
const y = Math.max(0, first.top + scrollY - 8);
return {x: 0, y, width: innerWidth, height: last.bottom + scrollY - y + 8, scale: 1};
"""


def take(report: Path) -> None:
    """Take all pictures of a report."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        # A capture hides scrollbars, and what stands below them moves up: away with them before places are measured.
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        for name, (ends, width, scheme) in PICTURES.items():
            prefer(browser, scheme=scheme, width=width, scale=1.25)
            browser.get(report.resolve().as_uri())
            wait_for(browser, "document.documentElement.dataset.ready === 'true'", seconds=120)
            clip = browser.execute_script(BOX, *ends)
            shot = {"format": "webp", "quality": 70, "clip": clip, "captureBeyondViewport": True}
            picture = browser.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]
            (FOLDER / f"{name}.webp").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    take(Path(sys.argv[1]))
    size = sum(path.stat().st_size for path in FOLDER.glob("*.webp"))
    print(f"{len(PICTURES)} pictures, {size:,} bytes")
    if size > MOST:
        raise SystemExit(f"at most {MOST:,} bytes belong into the repository")
