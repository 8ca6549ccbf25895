"""Tables of a Markdown page that a script computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def show(value: object) -> str:
    """Three digits for a number."""
    return f"{value:.3g}" if isinstance(value, float) else "undefined" if value is None else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(show(cell) for cell in line) + " |" for line in lines)
