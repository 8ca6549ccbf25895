"""MkDocs hook: runs the notebooks of docs/notebooks and makes a page of each.

A notebook that fails ends the build. What it shows is text, tables and Plotly figures, which become parts of the page
as they are; mkdocs-jupyter would bring its own style sheet, and scripts from a network.
"""

from __future__ import annotations

import json
from html import escape
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"


def on_files(files: Files, config: Any) -> Files:
    """Add a page a notebook, and the library that draws their figures."""
    import plotly.offline

    files.append(File.generated(config, "assets/plotly.min.js", content=plotly.offline.get_plotlyjs()))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page(path)))
    return files


def page(path: Path) -> str:
    """A notebook with what its cells gave, as Markdown."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(book, timeout=1800, coalesce_streams=True, resources={"metadata": {"path": folder}}).execute()
    title, *rest = book.cells
    parts = [
        title.source,
        f"[This page as a notebook]({path.name})",
        '<script src="../assets/plotly.min.js"></script>',
    ]
    numbers = count()
    for cell in rest:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        parts += [shown(output, next(numbers)) for output in cell.get("outputs", [])]
    return "\n\n".join(part for part in parts if part)


def shown(output: Any, number: int) -> str:
    """One output of a cell; what went to standard error is left out."""
    data = output.get("data", {})
    if PLOTLY in data:
        figure = {key: data[PLOTLY][key] for key in ("data", "layout")}
        title = escape(figure["layout"].get("title", {}).get("text", "figure"))
        drawn = json.dumps(figure).replace("</", "<\\/")
        return (
            f'<div id="figure-{number}" role="group" aria-label="{title}"></div>\n'
            f'<script>{{const drawn = {drawn}; Plotly.newPlot("figure-{number}", drawn.data, drawn.layout, '
            "{responsive: true, displaylogo: false});}</script>"
        )
    if "text/html" in data:
        return str(data["text/html"])
    text = data.get("text/plain") or (output.get("text", "") if output.get("name") == "stdout" else "")
    return f"```text\n{text.rstrip()}\n```" if text else ""
