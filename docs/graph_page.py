"""A page of Markdown under construction, with line drawings; for docs/graphs.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from page_table import show, table

COLORS = ("#3366aa", "#cc5544", "#449966", "#aa8833", "#775599")


Points = Sequence[tuple[float, float]]


class Page:
    """A Markdown page under construction, and the folder of its pictures."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        self.parts.append(text.strip() + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.write(table(head, rows))

    def draw(
        self, name: str, lines: Mapping[str, Points], caption: str, *, log: bool = True, dots: bool = False
    ) -> None:
        """Draw lines, or dots, over one pair of axes; the vertical one is logarithmic unless told otherwise."""
        width, height, left = 520, 220, 56
        scale = (lambda y: math.log10(max(y, 1e-16))) if log else float
        xs = [x for points in lines.values() for x, _ in points]
        ys = [scale(y) for points in lines.values() for _, y in points]
        low, high = min(ys), max(ys)

        def place(x: float, y: float) -> tuple[float, float]:
            across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
            up = (scale(y) - low) / ((high - low) or 1)
            return round(left + across * (width - left - 10), 1), round(10 + (1 - up) * (height - 40), 1)

        text = 'font-size="11" font-family="sans-serif" fill="#777"'
        shapes = [
            f'<rect x="{left}" y="10" width="{width - left - 10}" height="{height - 40}" fill="none" stroke="#999"/>'
        ]
        for value, y in ((high, 18), (low, height - 30)):
            shapes.append(f'<text x="2" y="{y}" {text}>{show(10**value if log else value)}</text>')
        for x, anchor in ((min(xs), "start"), (max(xs), "end")):
            at = left if anchor == "start" else width - 10
            shapes.append(f'<text x="{at}" y="{height - 16}" text-anchor="{anchor}" {text}>{show(float(x))}</text>')
        for number, (label, points) in enumerate(lines.items()):
            color, at = COLORS[number % len(COLORS)], [place(*point) for point in points]
            if dots:
                shapes += [f'<circle cx="{x}" cy="{y}" r="1.5" fill="{color}"/>' for x, y in at]
            else:
                joined = " ".join(f"{x},{y}" for x, y in at)
                shapes.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            shapes.append(
                f'<text x="{left + 115 * number}" y="{height - 2}" {text.replace("#777", color)}>{label}</text>'
            )
        (self.folder / "graphs").mkdir(parents=True, exist_ok=True)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        (self.folder / "graphs" / f"{name}.svg").write_text("\n".join([head, *shapes, "</svg>"]) + "\n")
        self.write(f"![{caption}](graphs/{name}.svg)\n\n*{caption}.*")

    def save(self) -> None:
        (self.folder / "graphs.md").write_text("\n".join(self.parts))
