"""The report in Chromium: figures are drawn, choices and sorting work, it fits a phone, goes dark, prints."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from ood_nc.report import write_comparison, write_report
from ood_nc.report.glossary import METRICS
from tests.helpers.browser import chromium, wait_for
from tests.helpers.report_runs import DETECTORS, build_comparison, build_run, write_document

from .conftest import Written

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def open_page(browser: Any, path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get(path.as_uri())
    wait_for(browser, "document.documentElement.dataset.ready === 'true'", seconds=120)


@pytest.fixture
def page(browser: Any, two: Written) -> Any:
    open_page(browser, two.path)
    return browser


def choose(browser: Any, name: str, label: str) -> None:
    browser.execute_script(
        """const select = document.querySelector(`select[data-control="${arguments[0]}"]`);
        const option = [...select.options].find(option => option.text === arguments[1]);
        select.value = option.value;
        select.dispatchEvent(new Event("change"));""",
        name,
        label,
    )


def traces(browser: Any, chart: str) -> list[dict[str, Any]]:
    script = "return document.getElementById(arguments[0]).data.map(({name, x, y, visible}) => ({name, x, y, visible}))"
    return browser.execute_script(script, f"chart-{chart}")


def each(browser: Any, selector: str, expression: str) -> list[Any]:
    """A JavaScript expression of ``e`` for every element that the selector finds."""
    return browser.execute_script(
        f"return [...document.querySelectorAll(arguments[0])].map(e => {expression})", selector
    )


def column(browser: Any, table: str, position: int) -> list[str]:
    return each(browser, f"#{table} tbody tr", f"e.cells[{position}].dataset.v")


def test_figures_are_drawn_without_network_or_errors(page: Any, two: Written) -> None:
    charts = each(page, ".chart", "e.querySelectorAll('svg .trace').length")
    assert len(charts) == 19
    assert min(charts) >= 1
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    shown = {trace["name"]: trace for trace in traces(page, "detection")}
    assert set(shown) == {"baseline", "controlled"}
    wanted = {"kind": "detection", "method": "knn", "metric": "fpr95_id_positive", "dataset": "mean", "group": "ood"}
    for document in two.documents:
        rows = [row for row in document["rows"] if wanted.items() <= row.items()]
        trace = shown[document["identity"]["run"]]
        assert trace["x"] == [row["tap"] for row in rows]
        assert trace["y"] == pytest.approx([100 * row["value"] for row in rows], rel=1e-5)


@pytest.mark.slow
def test_a_choice_changes_every_figure_that_shows_it(page: Any) -> None:
    before = {chart: traces(page, chart) for chart in ("detection", "trade-detection", "scores-0", "transfer")}
    choose(page, "detector", "energy")
    after = {chart: traces(page, chart) for chart in before}
    assert {chart for chart in before if before[chart] != after[chart]} >= {"detection", "trade-detection"}
    assert before["transfer"] == after["transfer"]
    assert set(each(page, "select[data-control=detector]", "e.selectedOptions[0].text")) == {"energy"}
    assert "FPR95 (ID positive), energy" in page.execute_script(
        "return document.getElementById('table-relations').tHead.textContent"
    )


@pytest.mark.slow
def test_tables_filled_in_again_say_what_the_page_said(page: Any) -> None:
    tables = "#table-detectors, #table-probes, #table-collapse, #table-relations"
    before = each(page, tables, "e.innerText")
    for name, other, first in (
        ("tap", "stem", "encoder / projector (what the head reads)"),
        ("pair", "AUPR-in (ID positive) and AUPR-out (OOD positive)", "AUROC and FPR95 (ID positive)"),
        ("split", "held-out ID", "ID train"),
        ("relset", "baseline", "all runs together"),
        ("scale", "min-max normalised by set", "as measured"),
    ):
        choose(page, name, other)
        assert each(page, tables, "e.innerText") != before, name
        choose(page, name, first)
        assert each(page, tables, "e.innerText") == before, name


@pytest.mark.slow
def test_undefined_cells_say_why(page: Any) -> None:
    choose(page, "tap", "stem")
    titles = each(page, "#table-detectors td.undefined", "[e.textContent, e.title]")
    assert {text for text, _ in titles} == {"–"}
    assert any(title.startswith("undefined: etf_cosine needs") for _, title in titles)


@pytest.mark.slow
def test_sorting_puts_the_better_end_first_and_undefined_last(page: Any) -> None:
    choose(page, "tap", "stem")
    button = "document.querySelectorAll('#table-detectors thead tr:last-child button')"
    for position, larger_first in ((0, True), (1, False)):
        for turn in (larger_first, not larger_first):
            page.execute_script(f"{button}[{position}].click()")
            values = column(page, "table-detectors", position + 1)
            numbers = [float(value) for value in values if value]
            assert numbers == sorted(numbers, reverse=turn)
            assert values[len(numbers) :] == [""] * (len(values) - len(numbers))
            assert len(numbers) < len(values)
    states = each(page, "#table-detectors [aria-sort]", "e.getAttribute('aria-sort')")
    assert sorted(set(states)) == ["descending", "none"]
    assert states.count("descending") == 1
    best = each(page, "#table-detectors tr td:nth-child(2).best", "+e.dataset.v")
    assert set(best) == {max(float(value) for value in column(page, "table-detectors", 1) if value)}


@pytest.mark.slow
def test_legend_hides_a_line(page: Any) -> None:
    page.execute_script("document.querySelector('#legend-detection button').click()")
    assert [trace["visible"] for trace in traces(page, "detection")] == ["legendonly", True]
    assert page.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "false"


@pytest.mark.slow
def test_differences_are_shown_by_place(page: Any) -> None:
    visible = ("#table-differences tbody tr:not([hidden])", "e.cells[7].textContent")
    assert "encoder → projector, energy" in each(page, *visible)
    choose(page, "place", "controlled − baseline: detection, stages.1, energy")
    assert set(each(page, *visible)) == {"stages.1, energy"}


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_fits_a_phone(browser: Any, two: Written, tmp_path: Path, wide: bool) -> None:
    path = two.path
    if wide:
        taps = (*(f"backbone.stages.{stage}.blocks.11.mlp.fc2" for stage in range(28)), "encoder", "projector")
        detectors = (*DETECTORS, *(f"detector_{number}" for number in range(32)))
        ood = {f"a-set-with-a-long-name-{number}": ("near", "far")[number > 2] for number in range(8)}
        path = write_comparison(
            *_written(build_comparison(tmp_path, taps=taps, detectors=detectors, ood=ood), tmp_path)
        )
    metrics = {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, path)
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [375, 375]
        inside = each(browser, "body *", "e.closest('.scroll, .vh, .hidden') || e.getBoundingClientRect().right <= 376")
        assert all(inside)
        assert max(len(trace["x"]) for trace in traces(browser, "collapse")) == (30 if wide else 7)
        labels = each(browser, "#chart-collapse .xtick text", "e.textContent")
        assert labels[-1] == "projector"
        assert len(labels) == len(set(labels))
        assert max(map(len, labels)) <= 22
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _written(built: tuple[list[Path], dict[str, Any]], folder: Path) -> tuple[list[Path], Path, dict[str, Any]]:
    return built[0], folder / "wide.html", built[1]


LUMINANCE = """
function luminance(color) {
  const [r, g, b] = color.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(element) {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
}
const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
return [...document.querySelectorAll('main *, header *')]
  .filter(element => !element.closest('svg, .chart, option') && element.offsetParent && hasText(element))
  .map(element => {
    const colors = [getComputedStyle(element).color, background(element)];
    const [a, b] = colors.map(luminance).sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 90)];
  }).filter(([contrast]) => contrast < 4.5);
"""


@pytest.mark.slow
def test_dark_mode_restyles_page_and_figures_with_enough_contrast(page: Any) -> None:
    def look() -> list[str]:
        return page.execute_script(
            """return [getComputedStyle(document.body).backgroundColor,
            document.querySelector('#chart-detection .xtick text').style.fill,
            document.querySelector('#chart-detection .lines path').style.stroke]"""
        )

    light = look()
    assert page.execute_script(LUMINANCE) == []
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    wait_for(page, f"document.querySelector('#chart-detection .xtick text').style.fill !== '{light[1]}'")
    dark = look()
    assert all(before != after for before, after in zip(light, dark, strict=True))
    assert page.execute_script(LUMINANCE) == []
    assert page.get_log("browser") == []


@pytest.mark.slow
def test_print_opens_details_and_drops_the_controls(page: Any) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    wait_for(page, "document.querySelectorAll('details').length === document.querySelectorAll('details[open]').length")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(each(page, ".controls, .contents, .modebar-container", "e.offsetHeight"))
    chosen = each(page, ".chosen", "e.innerText")
    beyond = each(page, ".chart:has(svg)", "e.querySelector('svg').getBoundingClientRect().height - e.clientHeight")
    assert beyond and max(beyond) <= 1
    assert "knn · FPR95 (ID positive) · mean over all OOD sets" in chosen
    assert "controlled − baseline: what the verdict is made of" in chosen
    widths = each(page, ".chart svg.main-svg", "e.width.baseVal.value")
    assert max(widths) <= 688
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert printed.startswith(b"%PDF")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    wait_for(page, "document.querySelectorAll('details[open]').length === 0")


@pytest.mark.slow
def test_print_lays_wide_tables_out_in_parts_which_hold_every_column_once(browser: Any, one: Written) -> None:
    open_page(browser, one.path)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wait_for(browser, "document.querySelectorAll('#table-collapse ~ .part').length > 1")
    parts = each(
        browser, "#table-collapse ~ .part", "[...e.tHead.rows[0].cells].slice(1).map(cell => cell.textContent)"
    )
    assert list(chain(*parts)) == each(browser, "#table-collapse thead th:not(:first-child)", "e.textContent")
    parts = each(
        browser, "#table-detectors ~ .part", "[...e.tBodies[0].rows[3].cells].slice(1).map(cell => cell.textContent)"
    )
    assert list(chain(*parts)) == each(browser, "#table-detectors tbody tr:nth-child(4) td", "e.textContent")
    heads = "[...e.tHead.rows].map(row => [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0))"
    assert all(len({first - 1, *rest}) == 1 for first, *rest in each(browser, "#table-detectors ~ .part", heads))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    wait_for(browser, "document.querySelectorAll('.part, .split, .beside').length === 0")


@pytest.mark.slow
def test_the_best_of_a_column_is_not_marked_where_it_is_chance(browser: Any, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if row["metric"] == "fpr95_id_positive" and row["value"] is not None:
            row["value"] = 1.0
    write_document(run, document)
    open_page(browser, write_report(run))
    assert each(browser, "#table-detectors tr td:nth-child(2).best", "1"), "AUROC is better than chance"
    assert not each(browser, "#table-detectors tr td:nth-child(3).best", "1")


@pytest.mark.slow
def test_a_mean_over_fewer_sets_is_not_marked_the_best(browser: Any, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", epochs=1)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in document["rows"]:
        if (row["dataset"], row["group"], row["method"]) == ("mean", "ood", "knn") and row["metric"] == "auroc":
            row |= {"value": 1.0, "n": 1}
    write_document(run, document)
    open_page(browser, write_report(run))
    best = each(browser, "#table-detectors td.mean.best", "[e.cellIndex, e.parentElement.cells[0].textContent]")
    assert [name for position, name in best if position == 1] and [1, "knn"] not in best
    choose(browser, "tap", "encoder")
    assert [1, "knn"] not in each(
        browser, "#table-detectors td.mean.best", "[e.cellIndex, e.parentElement.cells[0].textContent]"
    )


def test_a_report_of_one_run_prints_on_few_pages_and_names_each_point_once(browser: Any, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", taps=("stage2", "stage3", "encoder", "projector"), detectors=DETECTORS[:4])
    open_page(browser, write_report(run))
    names = "[...document.querySelectorAll('#chart-trade-detection .textpoint text')].map(e => e.textContent)"
    found = [name for name in browser.execute_script(f"return {names}") if name]
    assert sorted(found) == ["encoder", "projector", "stage2"], "two OOD sets, one name a tap"
    assert pages(browser) <= 8


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison as long as real ones are: many names, metrics and rules."""
    folder = tmp_path_factory.mktemp("six")
    weights = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    names = [f"entropy_weight_{weight}-seed_0-79a2f{place}" for place, weight in enumerate(weights)]
    runs = [build_run(folder / name, name, seed=number % 3, strength=number / 5) for number, name in enumerate(names)]
    standing = {"seeds": 1, "value": 0.4, "low": 0.3, "high": 0.5, "best": False, "within_noise": True}
    measures = [
        ("accuracy", ""),
        ("transfer_error", "linear"),
        ("ece", ""),
        ("temperature", ""),
        ("ece_at_temperature", ""),
    ]
    measures += [(name, method) for name in ("fpr95_id_positive", "auroc") for method in ("knn", "energy")]
    related = {"pearson_low": 0.1, "pearson_high": 0.3, "spearman": -0.3, "spearman_low": -0.4, "spearman_high": -0.2}
    related |= {"pearson": 0.2, "pearson_within_depth": 0.1, "pearson_across_runs": -0.4, "normalized": False, "n": 48}
    errors = (("detection", "fpr95_id_positive", "knn"), ("transfer", "transfer_error", "linear"))
    _, comparison = build_comparison(folder / "two")
    comparison |= {
        "standings": [standing | {"run": run, "metric": name, "method": by} for name, by in measures for run in names],
        "pareto": [
            {"run": name, "method": by, "standing": "within noise of the front", "by": []}
            for name in names
            for by in ("knn", "energy")
        ],
        "relations": [
            related | {"x": x, "kind": kind, "y": y, "method": by}
            for x in list(METRICS)[-29:]
            for kind, y, by in errors
        ],
        "verdicts": [
            comparison["verdict"].replace("controlled against baseline", f"{name} against {names[0]}")
            for name in names[1:]
        ],
    }
    return write_comparison(runs, folder / "six.html", comparison)


@pytest.mark.slow
def test_a_comparison_of_six_runs_prints_on_few_pages(browser: Any, six: Path) -> None:
    open_page(browser, six)
    assert pages(browser) <= 7, "real ones of six runs: 7 or 8"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wait_for(browser, "document.querySelectorAll('.part').length > 1")
    shown = "[...document.querySelectorAll('h2')].filter(e => e.offsetHeight).map(e => e.textContent)"
    wanted = ["Standings", "What was run", "Layer by layer", "The trade-off", "Differences, paired", "Data notes"]
    assert [title for title in browser.execute_script(f"return {shown}") if title in wanted] == wanted
    # What is left out is said, and is all there on a screen.
    left_out = "[...document.querySelectorAll('p.paper')].filter(e => e.offsetHeight).map(e => e.textContent)[0]"
    assert "ood-nc compare --format csv" in browser.execute_script(f"return {left_out}")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    tables = each(browser, "#table-detectors, #table-probes, #table-collapse, #headline", "e.offsetHeight > 0")
    assert tables == [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 700, 1280, 1600])
def test_standings_are_seen_whole_on_a_desktop_and_no_page_is_wider_than_its_window(
    browser: Any, six: Path, tmp_path: Path, width: int
) -> None:
    """The last columns, which say what is on the front, lay beyond the edge; so did three names side by side."""
    names = [f"imagenet100-resnet18-of-{name}" for name in ("the-baseline", "the-controlled-one", "another")]
    runs = [build_run(tmp_path / name, name, epochs=1) for name in names]
    _, comparison = build_comparison(tmp_path / "two")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, write_comparison(runs, tmp_path / "three.html", comparison))
        whole = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.execute_script(whole)
        open_page(browser, six)
        assert browser.execute_script(whole)
        ends = each(browser, "#table-standings th:last-child", "e.getBoundingClientRect().right")
        left = each(browser, "#table-standings", "e.parentElement.getBoundingClientRect().left")
        assert left[0] >= 0 and (width < 1280 or max(ends) <= width)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_nothing_printed_is_wider_than_the_paper(browser: Any, example: Any, one: Written) -> None:
    """Not even the settings that differ, where there are many."""
    paper = {"width": 688, "height": 1017, "deviceScaleFactor": 1, "mobile": False}
    runs, comparison = example
    for run in runs:
        settings = "".join(f"  setting_of_the_data_{key}: value-of-{run.name}\n" for key in range(12))
        (run / "config.yaml").write_text(f"data:\n{settings}", encoding="utf-8")
    for path in (write_comparison(runs, runs[0].parent / "wide.html", comparison), one.path):
        open_page(browser, path)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        wait_for(browser, "document.querySelectorAll('.part').length > 1")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
        try:
            assert browser.execute_script("return document.documentElement.scrollWidth") <= paper["width"]
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_on_paper_each_legend_is_there_once_and_choices_are_told(browser: Any, six: Path, one: Written) -> None:
    legends = (
        "[...document.querySelectorAll('.legend')].filter(e => e.offsetHeight && !e.closest('.screen')).map(e => e.id)"
    )
    for path, wanted in (
        (six, ["legend-transfer", "legend-trade-transfer"]),
        (one.path, ["legend-collapse", "legend-detection", "legend-transfer", "legend-trade-detection"]),
    ):
        open_page(browser, path)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        wait_for(browser, "document.querySelectorAll('.part').length > 1")
        assert browser.execute_script(f"return {legends}")[: len(wanted)] == wanted
    told = each(browser, ".chosen", "e.innerText")
    assert "projector (what the head reads) · AUROC and FPR95 (ID positive)" in told, "the tap of the detectors' table"


def pages(browser: Any) -> int:
    """How many sheets the page takes when it is printed."""
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    return len(re.findall(rb"/Type\s*/Page[^s]", printed))


def test_a_point_outside_of_its_interval_is_drawn_with_what_of_it_there_is(page: Any) -> None:
    point = {"x": "encoder", "value": 0.9, "low": 0.2, "high": 0.8, "n": 20}
    error = page.execute_script("return lineTrace('a', {}, [arguments[0]], 'percent').error_y", point)
    assert error["array"] == [0] and error["arrayminus"] == pytest.approx([70])


@pytest.mark.slow
def test_a_correlation_stands_beside_the_points_it_is_of(page: Any) -> None:
    note = "return document.getElementById('note-trade-detection').textContent"
    choose(page, "split", "ID train")
    assert "Pearson" in page.execute_script(note)
    choose(page, "split", "held-out ID")
    assert page.execute_script(note) == "", "the relations are of collapse on ID train"


@pytest.mark.slow
def test_names_on_axes_are_no_markup(browser: Any, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", taps=("stem", "<b>x</b>", "a<br>b", "projector"))
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    document["identity"]["model"] = "<i>net</i>"
    write_document(run, document)
    open_page(browser, write_report(run))
    told = each(
        browser, "#chart-paper-profiles text, #chart-paper-outcomes text, #chart-collapse text", "e.textContent"
    )
    assert {"<b>x</b>", "a<br>b", "<i>net</i>"} <= set(told)
    assert not {"x", "ab", "net"} & set(told)
