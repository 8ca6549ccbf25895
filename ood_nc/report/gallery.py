"""The images of a report: what the detector accepts and rejects most confidently, in the page itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ood_nc.report.documents import Run
from ood_nc.report.tables import Table

_DATA = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
_TOLD = {
    ("id", "rejected"): "Held-out ID images rejected most confidently",
    ("ood", "accepted"): "{}: accepted most confidently",
    ("ood", "rejected"): "{}: rejected most confidently",
}


def gallery(runs: Sequence[Run]) -> Table | None:
    """Of the last run that keeps images: a row a kind and set, each image with its neighbours and percentiles."""
    for run in reversed(runs):
        if run.gallery.get("rows"):
            thumbnails = run.gallery["thumbnails"]
            rows = [
                {"title": _title(row), "images": [_image(row["dataset"], one, thumbnails) for one in row["images"]]}
                for row in run.gallery["rows"]
                if row["images"]
            ]
            return {"run": run.name, "tap": run.gallery["tap"], "detector": run.gallery["detector"], "rows": rows}
    return None


def _title(row: Table) -> str:
    side = "id" if row["dataset"] == "id_test" else "ood"
    return _TOLD[side, row["kind"]].format(row["dataset"])


def _image(dataset: str, image: Table, thumbnails: Table) -> Table:
    near = [
        {"name": name, "label": label, "source": _source(thumbnails, "id_train", name)} for name, label in image["near"]
    ]
    percentiles = ", ".join(f"{tap} {value:.0f}" for tap, value in image["percentiles"].items())
    return {
        "name": image["id"],
        "source": _source(thumbnails, dataset, image["id"]),
        "near": near,
        "percentiles": percentiles,
    }


def _source(thumbnails: Any, dataset: str, name: str) -> str:
    """The picture, if it is one and no address of something else."""
    source = str(thumbnails.get(dataset, {}).get(name, ""))
    return source if _DATA.fullmatch(source) else ""
