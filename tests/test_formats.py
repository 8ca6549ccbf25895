"""The page on file formats says of a real run's files what is in them."""

from __future__ import annotations

import io
import json
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ood_nc.cli import main
from ood_nc.data import list_suites, open_dataset
from ood_nc.data import suites as suite_files
from ood_nc.deployment.file import describe
from ood_nc.sealed import read_sealed, read_sealed_bytes
from tests.helpers.cli import SMALL_EVALUATION

pytest.importorskip("mkdocs", reason="needs the extra docs")

HOOK = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "site_formats.py"))
FIELDS = {
    name: {line["field"]: line["type"] for line in lines if "/" not in line["field"]}
    for name, lines in HOOK["fields"]().items()
}
TYPES = {"integer": int, "number": (int, float), "text": str, "true or false": bool, "list": list, "object": dict}


def check(name: str, found: Mapping[str, Any], *, optional: Iterable[str] = (), more: bool = False) -> None:
    """That an object has the fields that the page lists, of these types, and (unless ``more``) no others."""
    listed = FIELDS[name]
    assert listed.keys() - set(optional) <= found.keys(), name
    assert more or found.keys() <= listed.keys(), name
    for field in listed.keys() & found.keys():
        kinds = [kind for kind in listed[field].split(" or ") if kind != "false"]
        kinds = ["true or false" if kind == "true" else kind for kind in kinds]
        allowed = [TYPES[kind] for kind in kinds if kind != "null"]
        value = found[field]
        assert (value is None and "null" in kinds) or any(isinstance(value, kind) for kind in allowed), (name, field)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        small = [*SMALL_EVALUATION, "--data.val-fraction", "0.4", "--experiment", "trial", "--quiet"]
        assert main(["run", *small]) == 0
        assert main(["fit", "runs/trial", "--detector", "knn", "-o", "knn.safetensors", "--quiet"]) == 0
        open_dataset("bundled/digits-near").load(0).save("a.png")
        assert main(["score", "knn.safetensors", "a.png", "-o", "verdicts.parquet", "--fdr", "0.1", "--quiet"]) == 0
    return place


@pytest.mark.slow
def test_every_file_of_a_run_is_as_the_page_says(folder: Path) -> None:
    run = folder / "runs" / "trial"
    assert FIELDS["run"].keys() <= {path.name for path in run.iterdir()}
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    check("results", results)
    check("identity", results["identity"], more=True)
    check("status", json.loads((run / "status.json").read_text(encoding="utf-8")))
    for name in ("best", "last"):
        check("checkpoint", read_sealed(run / "checkpoints" / f"{name}.safetensors")[0])
    state = io.BytesIO(read_sealed_bytes(run / "checkpoints" / "last.state.pt"))
    check("state", torch.load(state, weights_only=True))
    banks = list((run / "features").iterdir())
    for bank in banks:
        check("index", json.loads(read_sealed_bytes(bank / "index")))
        assert {"rows"} == read_sealed(bank / "tap-0.safetensors")[1].keys()
    check("detector", describe(folder / "knn.safetensors"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert banks and {line["split"] for line in lines} >= {"train", "val", "tracked"}
    for line in lines:
        named = {key: value for key, value in line.items() if "/" not in key}
        check("log", named, optional=FIELDS["log"].keys() - {"step", "epoch", "split"})


@pytest.mark.slow
def test_every_column_of_a_table_is_as_the_page_says(folder: Path) -> None:
    for name, path in (
        ("row", folder / "runs" / "trial" / "results.parquet"),
        ("samples", folder / "runs" / "trial" / "scores.parquet"),
        ("verdicts", folder / "verdicts.parquet"),
    ):
        columns = {field.name: str(field.type) for field in pq.read_schema(path) if "/" not in field.name}
        assert columns == FIELDS[name], name
    columns = {field.name: str(field.type) for field in pq.read_schema(folder / "runs" / "trial" / "scores.parquet")}
    assert {kind for name, kind in columns.items() if name.startswith("score/")} == {"double"}
    assert {kind for name, kind in columns.items() if name.startswith("correct/")} == {"bool"}


def test_every_suite_that_ships_has_the_fields_that_the_page_lists() -> None:
    for name in list_suites():
        suite = yaml.safe_load((Path(suite_files.__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))
        check("suite", suite, optional=("get", "transfer", "known"))


def test_the_pages_have_a_line_a_field_and_a_line_a_measure() -> None:
    text = HOOK["formats"]()
    assert all(f"| `{field}` | {kind} | " in text for lines in FIELDS.values() for field, kind in lines.items())
    assert text.count("\n## ") == len(FIELDS) + 1
    glossary = HOOK["glossary"]()
    assert all(line.count("|") - line.count(r"\|") in (3, 5) for line in glossary.splitlines() if line.startswith("|"))
    assert "| AUROC | `auroc` | higher | " in glossary and "| simplex ETF | " in glossary
