"""MkDocs hook: writes the reference pages from the code itself, and links to files of the repository.

pip install '.[docs]' && mkdocs build --strict
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ROOMS = (
    "", "collapse", "detection", "scores", "transfer", "losses", "models", "data", "features", "evaluation", "training",
    "deployment", "report", "tracking", "intermediate", "multilabel",
)  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"commands": commands(), "configuration": configuration(), "detectors": detectors(), "metrics": metrics()}
    pages["python"] = python()
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files outside the site become code: the site has no repository's address."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+((?:configs|scripts|tests|ood_nc)/[^)]*)\)", r"\1 (`\2`)", markdown)


def commands() -> str:
    """Every command's help."""
    from ood_nc.cli import _COMMANDS, main

    parts = ["# Commands\n"]
    for name, command in _COMMANDS.items():
        text = io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            main([name, "--help"])
        shown = text.getvalue().partition("keys of the configuration")[0].rstrip()
        parts.append(f"## {name}\n\n{command.summary}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def configuration() -> str:
    """Every key with its default and meaning, section by section."""
    from pydantic import BaseModel

    from ood_nc.config import Config

    lines = [
        "# Configuration\n",
        "A key is a flag by its dotted name. `ood-nc run --print-config` shows what would run.\n",
    ]

    def section(model: type[BaseModel], name: str) -> None:
        lines.append(
            f"## {name or 'top level'}\n\n{(model.__doc__ or '').strip()}\n\n| key | default | meaning |\n|---|---|---|"
        )
        inner = []
        for key, field in model.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            nested = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
            if nested is not None and field.annotation in (nested, nested | None):
                inner.append((nested, f"{name}.{key}".lstrip(".")))
                continue
            default = field.get_default(call_default_factory=True)
            lines.append(f"| `{key}` | `{default}` | {(field.description or '').replace('|', chr(92) + '|')} |")
        lines.append("")
        for nested, path in inner:
            section(nested, path)

    section(Config, "")
    return "\n".join(lines)


def detectors() -> str:
    """Every detector with its first line."""
    from ood_nc.detection import detector_class, list_detectors

    lines = [
        "# Detectors\n",
        "Larger scores are more in-distribution.\n",
        "| name | reads | what it is |\n|---|---|---|",
    ]
    for name in list_detectors():
        cls = detector_class(name)
        first = (cls.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
        lines.append(f"| `{name}` | {cls.kind}s | {first} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """Every metric of detection and of collapse."""
    from ood_nc.collapse import METRICS
    from ood_nc.report.glossary import metric
    from ood_nc.scores import METRICS as SCORES

    lines = ["# Metrics\n", "## Detection\n", "| name | in reports | meaning |\n|---|---|---|"]
    lines += [f"| `{name}` | {metric(name).label} | {metric(name).meaning} |" for name in SCORES]
    lines += ["\n## Collapse\n", "| name | definition | source | collapsed |\n|---|---|---|---|"]
    for name in METRICS:
        one = METRICS[name]
        definition = one.definition.replace("|", "\\|")
        lines.append(f"| `{name}` | {definition} | {one.source} | {one.collapsed or '-'} |")
    return "\n".join(lines) + "\n"


def python() -> str:
    """The public names of every room, from their docstrings."""
    parts = ["# Python\n"]
    for room in ROOMS:
        parts.append(f"::: {'ood_nc.' + room if room else 'ood_nc'}\n    options: {{show_submodules: false}}\n")
    return "\n".join(parts)
