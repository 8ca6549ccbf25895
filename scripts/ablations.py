"""Computes docs/ablations.md: every sweep of configs/sweeps at a size for a CPU, its table and its figure.

    python scripts/ablations.py RUNS

Can be stopped at any time: what is finished in RUNS is kept. All runs are made in this process, one after the other.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ood_nc.cli import main as ood_nc
from ood_nc.cli.sweep import trial_name
from ood_nc.cli.sweep_file import Sweep, read_sweep
from ood_nc.report import write_sweep

ROOT = Path(__file__).parent.parent
PAGE, PICTURES = ROOT / "docs" / "ablations.md", ROOT / "docs" / "ablations"
SEEDS = (0,)
SIZE = {
    "train.epochs": 20,
    "evaluation.bootstrap": 0,
    "evaluation.detectors": "energy,knn",
    "evaluation.probes": "linear",
    "tracking.log_wandb": "false",
}
INTRODUCTION = f"""# Ablations

What one setting does to collapse, detection and transfer, everything else as in the quickstart: five bundled digits,
16 pixels, a network of six convolutions, {SIZE["train.epochs"]} epochs, one seed. This is the size of a try:
it shows how such a question is asked, and in which direction collapse moves. With some hundred test images and one seed
a difference of some points in an outcome is nothing. For evidence see [the claim](claim.md).

Each heading is a file of `configs/sweeps`. `ood-nc sweep NAME` makes its runs, three seeds at the quickstart's own
length, with the same table and figure; `wandb agent` runs the same file on any number of machines. This page is
computed by `scripts/ablations.py`.
"""


def run(sweep: Sweep, folder: Path) -> Path:
    """Make the runs that are missing; returns the table."""
    settings = {folder / trial_name(sweep, one): one for one in sweep.settings if one["train.seed"] in SEEDS}
    for directory, setting in settings.items():
        if (directory / "report.html").is_file():
            continue
        size = [f"--{key}={value}" for key, value in SIZE.items() if key not in setting]
        place = [f"--output={directory.parent}", f"--experiment={directory.name}", "--quiet"]
        resume = ["--resume"] if (directory / "config.yaml").is_file() else []
        if ood_nc([*sweep.words(setting), *size, *place, *resume]):
            raise SystemExit(f"{directory} failed.")
    return write_sweep(sweep.name, settings, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    runs = parser.parse_args().runs
    PICTURES.mkdir(exist_ok=True)
    parts = [INTRODUCTION]
    for path in sorted((ROOT / "configs" / "sweeps").glob("*.yaml")):
        sweep = read_sweep(path)
        table = run(sweep, runs / sweep.name)
        shutil.copy(next(table.parent.glob("*sweep.svg")), PICTURES / f"{sweep.name}.svg")
        about = path.read_text().splitlines()[0].lstrip("# ")
        parts.append(f"## {sweep.name}\n\n{about}\n\n{table.read_text()}\n![{about}](ablations/{sweep.name}.svg)\n")
        PAGE.write_text("\n".join(parts))  # as far as it has come
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
