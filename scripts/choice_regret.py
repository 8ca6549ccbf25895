"""What choosing a tap and a method without OOD or transfer data costs: the regret of every rule over evaluated runs.

    python scripts/choice_regret.py runs/*/ > table.md

A regret is how much worse, in points of mean FPR95 or of mean transfer accuracy, the chosen tap and method are than the
best of the run in hindsight. Beside the rules stands a blind choice: the mean over all candidates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ood_nc.documents import read_results
from ood_nc.report.choices import regret_table


def table(by_run: Sequence[Sequence[dict[str, Any]]], task: str) -> Iterable[str]:
    """Markdown, the least mean regret first."""
    yield "| rule | what it chooses | runs | mean regret, points | worst |"
    yield "|---|---|---|---|---|"
    for line in regret_table(by_run):
        if line["task"] == task:
            numbers = f"{line['runs']} | {100 * line['mean']:.1f} | {100 * line['worst']:.1f}"
            yield f"| `{line['rule']}` | {line['text']} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="evaluated run directories")
    parser.add_argument("--each", action="store_true", help="also each run's choices")
    arguments = parser.parse_args()
    runs = {path.name: read_results(path)["choices"] for path in arguments.runs if (path / "results.json").exists()}
    for task in ("detection", "transfer"):
        print(f"### {task}, {len(runs)} runs\n")
        print("\n".join(table(list(runs.values()), task)), "\n")
    for name, choices in runs.items() if arguments.each else ():
        for choice in choices:
            place, best = (
                f"{choice['chosen_tap']}, {choice['method']}",
                f"{choice['best_tap']}, {choice['best_method']}",
            )
            cost = "-" if choice["regret"] is None else f"{100 * choice['regret']:.1f}"
            print(f"{name}: {choice['rule']}: {place} {cost}; in hindsight {best} {choice['value_best']:.3f}")


if __name__ == "__main__":
    main()
