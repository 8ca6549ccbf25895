"""The page on one image: a detector's decision, how typical the image is at every tap, what is near."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ood_nc.files import write_text

_WIDTH, _HEIGHT = 480, 120


def write_explanation(document: Mapping[str, Any], path: str | Path) -> None:
    """Write one HTML file that needs nothing else, from the document of ``ood_nc.deployment.explanation.explain``.

    Raises:
        UserError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("ood_nc.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("explanation.html.j2").render(**document, strip=_strip(document))
    write_text(path, page)


def _strip(document: Mapping[str, Any]) -> dict[str, Any]:
    """Bars, threshold and mark of the histogram of held-out ID scores, in the units of its drawing."""
    edges, counts = document["histogram"]["edges"], document["histogram"]["counts"]
    low, span, most = edges[0], (edges[-1] - edges[0]) or 1.0, max(counts) or 1

    def across(value: float) -> float:
        return round(min(max((value - low) / span, 0), 1) * _WIDTH, 1)

    bars = [
        {
            "x": across(left),
            "width": max(round(across(right) - across(left) - 1, 1), 0.5),
            "y": round(_HEIGHT * (1 - count / most), 1),
            "height": round(_HEIGHT * count / most, 1),
        }
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    threshold = document["threshold"]
    inside = low <= threshold <= edges[-1]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "bars": bars,
        "threshold": across(threshold) if inside else None,
        "mark": across(document["score"]),
    }
