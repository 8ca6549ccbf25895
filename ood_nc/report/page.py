"""Puts the report together: one HTML file that carries its style, its script, its data and plotly.js."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ood_nc.documents import check_schema
from ood_nc.files import expanded, write_text
from ood_nc.headline import HEADLINE_RULE
from ood_nc.report import choices, headlines, pivots, summary, tables
from ood_nc.report.audit import audits
from ood_nc.report.differences import difference_table, finding, points
from ood_nc.report.documents import Row, Run, read_runs
from ood_nc.report.figures import build, plotly_figure
from ood_nc.report.gallery import gallery
from ood_nc.report.glossary import METHODS, metric
from ood_nc.report.numbers import percent
from ood_nc.report.payload import Index, build_payload
from ood_nc.report.standings import standing_table

SCRIPTS = ("core.js", "figures.js", "curves.js", "tables.js", "page.js")


def write_report(directory: str | Path) -> Path:
    """Write report.html of one evaluated run into its directory.

    Args:
        directory: holds results.json; metrics.jsonl, config.yaml and environment.json are used where they are.

    Returns:
        The report's path.

    Raises:
        UserError: results.json is absent, damaged or of a newer schema; the report cannot be written.
    """
    directory = expanded(directory)
    path = directory / "report.html"
    write_text(path, _render(read_runs([directory]), None))
    return path


def write_comparison(directories: Sequence[str | Path], output: str | Path, comparison: Mapping[str, Any]) -> Path:
    """Write the report of several evaluated runs beside each other.

    Args:
        directories: the runs, the reference first.
        output: the HTML file.
        comparison: the document that compares them; the verdict and the differences are taken from it.

    Returns:
        ``output``.

    Raises:
        UserError: a run has no readable results, the comparison is of a newer schema, the report cannot be written.
    """
    check_schema(comparison, "The comparison")
    output = expanded(output)
    write_text(output, _render(read_runs(directories), comparison))
    return output


def as_script(data: Any) -> Markup:
    """JSON that is safe inside ``<script>``: nothing in it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _render(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> str:
    index = Index(runs)
    lookup = tables.Lookup(runs, index)
    joint = list((comparison or {}).get("relations") or [])
    relations: Sequence[Row] = joint or runs[_first_with_relations(runs)].relations
    payload = build_payload(runs, index, joint)
    figures = build(runs)
    payload["figures"] = {one.name: plotly_figure(one) for one in figures if one.panels}
    context = {
        "title": _title(runs),
        "runs": [_run_context(run, color) for run, color in zip(runs, payload["runs"], strict=True)],
        "verdict": _verdict(runs, comparison),
        "rule": (comparison or {}).get("rule") or HEADLINE_RULE,
        "headlines": headlines.headlines(runs, comparison),
        "columns": headlines.columns(runs),
        "headline_notes": headlines.headline_notes(runs),
        "commands": _commands(runs),
        "facts": summary.facts(runs),
        "settings": summary.differing_settings(runs),
        "detectors": pivots.detector_table(runs, lookup),
        "transfer": pivots.transfer_table(runs, lookup),
        "tunnel": pivots.tunnel_table(runs),
        "collapse": tables.collapse_table(runs, lookup),
        "relations": tables.relation_table(relations, len(runs) if joint else _first_with_relations(runs), bool(joint)),
        "unrelated": tables.why_unrelated([*joint, *(row for run in runs for row in run.relations)]),
        "choices": choices.choice_table(runs[0].choices) if len(runs) == 1 else [],
        "regrets": choices.regret_table([run.choices for run in runs]) if len(runs) > 1 else [],
        "recommended": choices.recommendations(runs),
        "rules": choices.rules(runs),
        "differences": difference_table(comparison) if comparison else None,
        "standings": standing_table(comparison),
        "gallery": gallery(runs),
        "datasets": summary.datasets(runs),
        "audits": audits(runs),
        "id_size": pivots.span(map(pivots.id_size, runs)),
        "undefined": summary.undefined(runs),
        "warnings": summary.warnings(runs, comparison),
        "glossary": [(name, shown) for name in payload["metrics"] if (shown := metric(name)).meaning],
        "methods": {name: METHODS[name] for name in payload["methods"] if name in METHODS},
        "figures": figures,
        "has_log": any(run.log for run in runs),
        "logged": any(name.startswith("collapse/") for run in runs for line in run.log for name in line),
        "controlled": any(line.get("split") == "control" for run in runs for line in run.log),
        "has_histograms": bool(payload["histograms"]),
        "payload": as_script(payload),
        "plotly": Markup(get_plotlyjs()),
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return _environment().get_template("report.html.j2").render(context)


def _title(runs: Sequence[Run]) -> str:
    names = [runs[column[0]].group if len(column) > 1 else runs[column[0]].name for column in headlines.columns(runs)]
    if len(names) > 3:
        return f"{len(names) - 1} others against {names[0]}"
    return f"{names[1]} against {names[0]}" if len(names) == 2 else ", ".join(names)


def _run_context(run: Run, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": run.name,
        "group": run.group,
        "color": shown["color"] % 8,
        "symbol": shown["symbol"],
        "accuracy": tables.cell(headlines.id_accuracy(run), "percent"),
        "time": summary.run_time(run),
        "config": run.config,
        "directory": run.directory.name,
    }


def _commands(runs: Sequence[Run]) -> dict[str, list[int]]:
    """The runs that each command made; no command where a model was evaluated as it was given."""
    found: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        command = shlex.join((run.environment or {}).get("command") or [])
        found.setdefault(command or ("ood-nc run --config config.yaml" if run.config else ""), []).append(number)
    return found


def _verdict(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> list[str]:
    if comparison:
        return list(comparison.get("verdicts") or [comparison["verdict"]])
    return headlines.sentences(runs[0]) or ["These results hold no detection or transfer figures to judge by."]


def _first_with_relations(runs: Sequence[Run]) -> int:
    return next((number for number, run in enumerate(runs) if run.relations), 0)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ood_nc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader.get_source  # type: ignore[union-attr]
    environment.globals.update(
        style=Markup(source(environment, "report.css")[0]),
        script=Markup("\n".join(source(environment, name)[0] for name in SCRIPTS)),
        metric=metric,
        percent=percent,
        points=points,
        finding=finding,
    )
    return environment
