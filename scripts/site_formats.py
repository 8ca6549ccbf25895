"""MkDocs hook: the pages on file formats and words.

What a field means stands in docs/reference/formats.csv. Types of Arrow columns and versions are the code's; the other
types are held against files of a run by tests/test_formats.py.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
from mkdocs.structure.files import File, Files

from ood_nc.deployment.file import FORMAT
from ood_nc.deployment.parts import FORMATS, SCHEMA
from ood_nc.documents import COLUMNS, SCHEMA_VERSION
from ood_nc.report.glossary import METHODS, METRICS

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
ARROW = {
    "row": COLUMNS,
    "samples": {"score/TAP/DETECTOR": "double", "correct/TAP/PROBE": "bool or double"},
    "verdicts": {field.name: str(field.type) for field in SCHEMA} | {"discovery": str(pa.bool_())},
}
SECTIONS = {
    "run": ("A run's folder", "`runs/NAME`. Every file is written whole or not at all."),
    "results": ("results.json", f"Version {SCHEMA_VERSION}. JSON without NaN: what is undefined is null."),
    "identity": ("identity in results.json", "What else an evaluation adds to it is for the report."),
    "row": ("Rows: results.parquet, and rows in results.json", "A measurement each; a column is never left out."),
    "samples": ("scores.parquet of a run", "A row a sample of ID test, OOD and transfer sets."),
    "verdicts": (f"Output of ood-nc score ({', '.join(FORMATS)})", "A row an image, in the order they were given."),
    "detector": (
        "Detector file",
        f"Version {FORMAT}. A [sealed](#sealed-files) safetensors file. Its header holds the fields below, its tensors "
        "what they point to and, under `backbone/`, the network's weights.",
    ),
    "checkpoint": ("checkpoints/best.safetensors and last.safetensors", "[Sealed](#sealed-files); the header holds"),
    "state": ("checkpoints/last.state.pt", "[Sealed](#sealed-files); torch's format, read with `weights_only`."),
    "index": (
        "Feature bank",
        "A folder a data set: `tap-0.safetensors` and so on, `logits.safetensors` ([sealed](#sealed-files), the tensor "
        "`rows`, one row an image that could be read) and the sealed JSON `index`:",
    ),
    "log": ("metrics.jsonl", "A JSON object a line. Which fields a line has depends on its split."),
    "status": ("status.json", "Of training."),
    "suite": ("Suite file (YAML)", "Sources are relative to `--data-dir`. `ood-nc suites make` writes one."),
}
SEALED = """## Sealed files

A safetensors file that any reader of the format opens. In its metadata, beside `format`, stand `ood_nc`, the header as
JSON, and `seal`, a SHA-256 over the whole file with the seal itself taken as 64 zeros (of a bank's rows: over the
header and the sums of rows and columns). A file that is no safetensors ends with `ood_nc sealed:` and the digest of
what stands before. The seal finds damage, it is no signature: [files that may be untrusted](../security.md).
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the two pages."""
    for name, content in (("formats", formats()), ("glossary", glossary())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def fields() -> dict[str, list[dict[str, str]]]:
    """The fields of every file, their types filled in: ``field``, ``type``, ``meaning``."""
    found: dict[str, list[dict[str, str]]] = {name: [] for name in SECTIONS}
    with (FOLDER / "formats.csv").open(encoding="utf-8", newline="") as table:
        for line in csv.DictReader(table):
            name = line.pop("file")
            found[name].append({**line, "type": line["type"] or ARROW[name].get(line["field"], "string")})
    return found


def formats() -> str:
    """The page of file formats."""
    parts = ["# File formats\n"]
    for name, lines in fields().items():
        title, text = SECTIONS[name]
        parts.append(f"## {title}\n\n{text}\n\n| field | type | meaning |\n|---|---|---|")
        parts += [f"| `{line['field']}` | {line['type']} | {line['meaning']} |" for line in lines]
        parts.append("")
    return "\n".join([*parts, SEALED])


def glossary() -> str:
    """The page of words: terms, measures as reports call them, methods."""
    with (FOLDER / "terms.csv").open(encoding="utf-8", newline="") as table:
        terms = [f"| {line['term']} | {line['meaning']} |" for line in csv.DictReader(table)]
    measures = [
        f"| {one.label} | `{name}` | {one.better or '-'} | {one.meaning.replace('|', chr(92) + '|')} |"
        for name, one in METRICS.items()
    ]
    return "\n".join(
        [
            "# Glossary\n\n## Terms\n\n| term | meaning |\n|---|---|",
            *terms,
            "\n## Measures in reports\n\n| in reports | name | better | meaning |\n|---|---|---|---|",
            *measures,
            "\n## Probes and other methods\n\n| name | meaning |\n|---|---|",
            *(f"| `{name}` | {meaning} |" for name, meaning in METHODS.items()),
            "",
        ]
    )
