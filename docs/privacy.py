"""Private fine-tuning: accounting, the dimension experiment, and what it comes to on real features.

Running it computes the numbers of docs/privacy.md: python docs/privacy.py [FOLDER]. The tables on CIFAR-10 are read
from docs/privacy/*.csv, which scripts/private_features.py and then scripts/private_cifar.py compute from the images.
"""

from __future__ import annotations

import csv
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from page_table import table

from ood_nc.files import write_text
from ood_nc.privacy import Mechanism, epsilon_of, noise_for, one_step_errors, predicted_error, shift_threshold
from ood_nc.report.figures import Figure, Panel, Series, write_figures

DOCS = Path(__file__).parent
Rows = list[dict[str, str]]


def read(name: str) -> Rows:
    with open(DOCS / "privacy" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean(rows: Rows, column: str) -> str:
    """Mean over seeds, with the standard deviation where there are several."""
    values = [float(row[column]) for row in rows if row[column]]
    if not values:
        return "-"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def of(rows: Rows, **equals: str) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in equals.items())]


def budget(epsilon: str) -> str:
    return "not private" if epsilon == "inf" else f"ε = {epsilon}"


def accounting() -> str:
    one = {name: noise_for(1.0, 1e-5, accountant=name) for name in ("analytic", "zcdp")}
    assert abs(one["analytic"] - 3.7306) < 1e-4
    assert abs(one["zcdp"] - 4.9006) < 1e-4
    runs = [Mechanism(10.0, 1.0, 100), Mechanism(20.0, 1.0, 100), Mechanism(1.0, 0.01, 1000)]
    rows = []
    for run in runs:
        found = ["-" if run.sample_rate < 1 and a in ("analytic", "zcdp") else epsilon_of([run], 1e-5, a)
                 for a in ("analytic", "prv", "rdp", "zcdp")]  # fmt: skip
        rows.append([f"{run.noise_multiplier:g}", f"{run.sample_rate:g}", run.steps, *found])
    return f"""
## What is guaranteed

A head from `fit_private_head`, or `ood-nc private-head`, carries its statement: epsilon and delta, which sets of records
are neighbours (one is the other without a record; their number is public), the accountant, the clipping norm, and every
mechanism that read the records, the paid mean and directions included. Epsilon is computed from what was run.

Full-batch NoisyGD of T steps at noise s is one Gaussian mechanism at s/√T, whose cost is known exactly (`analytic`);
`zcdp` bounds it by ρ + 2√(ρ ln 1/δ), ρ = T/(2s²). Poisson samples go to Opacus (`rdp`, `prv`); empty ones count. One
release at ε = 1, δ = 1e-5 needs noise {one["analytic"]:.4f}, by zCDP {one["zcdp"]:.4f}. Epsilon of some runs, δ = 1e-5:

{table(["noise", "sample rate", "steps", "analytic", "prv", "rdp", "zcdp"], rows)}

`audited_epsilon` turns a membership test into a lower bound of epsilon; the tests hold it below what is stated, and see
it exceed the statement of a head that was trained with too little noise. Choosing settings by the private records costs
privacy that nobody counts here; the noise is floating-point, from a generator that is not cryptographic, and without
protection only while its seed is unknown (the command draws a fresh one unless `--seeds` is given).

Heads of several `--seeds` read the same records, so who sees all of them sees more than each states: the command says, and
the results keep, what they cost together (`compose`: all mechanisms at once, at the delta of one) and added up (k ε at k δ).
"""


def dimension() -> str:
    samples, dims = 50, (10, 100, 400, 1600)
    sigma = {epsilon: noise_for(epsilon, 1e-2) for epsilon in (0.02, 0.05, 0.1)}
    noise = sigma[0.02]
    columns = {"β = 0.5/√p": lambda p: 0.5 / math.sqrt(p), "β = 0.05": lambda p: 0.05, "β = 0.2": lambda p: 0.2}
    rows, cells = [], []
    for p in dims:
        row: list[object] = [p]
        for shift in (column(p) for column in columns.values()):
            errors = one_step_errors(
                p, shift, samples=samples, noise_multiplier=noise, replicates=300, tests=20, seed=p
            )
            expected = predicted_error(p, shift, samples=samples, noise_multiplier=noise)
            row.append(f"{100 * errors.mean():.1f} % ({100 * expected:.1f} %)")
            if 0.2 < p * shift**2 < 5:
                cells.append((p, shift, errors))
        rows.append(row)
    found = shift_threshold(*zip(*cells, strict=True), margin=samples / noise)
    assert found.low < 1.1
    assert found.high > 0.9
    budgets = [
        [f"{epsilon:g}", f"{s:.1f}"]
        + [f"{100 * predicted_error(p, 0.05, samples=samples, noise_multiplier=s):.1f} %" for p in dims]
        for epsilon, s in sigma.items()
    ]
    return f"""
## When the dimension does not matter

Two classes, features y(1, 0, …, 0) plus p coordinates ±β, one step of NoisyGD from zero, {samples} samples, noise
{noise:.1f} (ε = 0.02, δ = 0.01: a budget so small that there is an error to see). Share of wrong test samples, and in
parentheses Φ(-(N/s)/(1 + pβ²)):

{table(["p", *columns], rows)}

With β = c/√p the error is the same at every p; with β fixed it grows to chance. The margin, in standard deviations of
the noise that reaches a test sample, has halved at pβ² = **{found.value:.2f}** (95 %: {found.low:.2f} to {found.high:.2f}). By budget, at β = 0.05:

{table(["ε", "noise", *(f"p = {p}" for p in dims)], budgets)}
"""


def accuracy() -> str:
    rows = [*read("accuracy"), *read("dp_sgd")]
    remedies, epsilons = (list(dict.fromkeys(row[key] for row in rows)) for key in ("remedy", "epsilon"))
    assert all(float(row["stated"]) <= float(row["epsilon"]) for row in rows)
    cells = [[r, *(mean(of(rows, remedy=r, epsilon=e), "accuracy") for e in epsilons)] for r in remedies]
    columns = ["accuracy", "auroc textures", "auroc flowers", "nc1_pinv", "nc2_etf", "nc3_duality", "nc4_bias"]
    beside = [
        [r, budget(e), *(mean(of(rows, remedy=r, epsilon=e), column) for column in columns)]
        for r in ("normalised", "normalised, public PCA")
        for e in ("1", "inf")
        if r in remedies
    ]
    return f"""
## CIFAR-10 on EfficientNet-Lite0

Features (1280) of an EfficientNet-Lite0 with its real ImageNet weights, 10,000 training and 2,000 test images of
CIFAR-10 enlarged to 96 pixels; NoisyGD, 30 full-batch steps, clipping norm 1, δ = 1e-5, one learning rate for all (10 at
unit norm). PCA to 40 directions, with the mean: from 2,000 Tiny-ImageNet photographs (public), or paid with a fifth of
the budget. Test accuracy, mean and standard deviation over 5 seeds:

{table(["remedy", *map(budget, epsilons)], cells)}

DP-SGD takes 100 Poisson samples of a tenth of the images at rate 3, as far a way as the 30 full batches at 10, accounted for by RDP.
The last column is the same training without clipping and noise, 30 steps too. Unit norm helps at every budget. Forty
directions of other photographs cost some accuracy where nothing is disturbed; the data's own, without noise, cost none,
but paid for they cost more than the public ones, most at a small budget: the noise on 1280 x 1280 products turns them.

The private head beside the one without privacy: AUROC of the energy of its logits (which costs no further privacy), and
collapse of the training features with the head (not private: a diagnosis; of seed 0):

{table(["remedy", "head", *columns], beside)}
"""


def shift() -> str:
    rows = read("shift")
    head = ["backbone", "d", "β max", "95 %", "median", "‖·‖₂ max", "95 %", "median", "accuracy ε = 1", "not private"]
    columns = [
        *(f"{k} {q}" for k in ("sup", "euclidean") for q in ("max", "q95", "median")),
        "accuracy 1",
        "accuracy inf",
    ]
    cells = [[row["backbone"], row["dim"], *(float(row[column]) for column in columns)] for row in rows]
    return f"""
## Feature shift of backbones of growing strength

Features less their mean, at unit norm; distance to their vertex of the nearest simplex ETF (Procrustes). The sup norm
depends on the basis and shrinks with d by itself; the 2-norm does not. EfficientNet-Lite0 untrained, at 48 and at 96
pixels; ResNet-20 and -32 were trained on CIFAR-10 itself, training images included, so that what they give is the end of
the scale and no private accuracy. Mean of 3 seeds, unit norm, no PCA:

{table(head, cells)}
"""


def drop(rows: Rows, remedy: str, epsilon: str) -> float:
    """What the larger noise on the training features costs in accuracy."""
    same = of(rows, remedy=remedy, epsilon=epsilon)
    before, after = (
        np.mean([float(row["accuracy"]) for row in of(same, disturbance=name)]) for name in ("none", "noise 1 on train")
    )
    return float(before - after)


def perturbations() -> str:
    rows = read("perturbations")
    remedies = list(dict.fromkeys(row["remedy"] for row in rows))
    cells = [
        [d, *(mean(of(rows, disturbance=d, remedy=r, epsilon=e), "accuracy") for r in remedies for e in ("1", "inf"))]
        for d in dict.fromkeys(row["disturbance"] for row in rows)
    ]
    seeds = len({row["seed"] for row in rows})
    assert drop(rows, "raw", "1") > drop(rows, "raw", "inf") + 0.02
    assert drop(rows, "normalised, public PCA", "1") < drop(rows, "normalised", "1") < drop(rows, "raw", "1")
    head = ["disturbance", *(f"{r}, {budget(e)}" for r in remedies for e in ("1", "inf"))]
    return f"""
## Disturbed features

Noise and offset in mean norms of the features; imbalance: the classes keep 1000 down to 100 training images. Test
accuracy, ε = 1 ({seeds} seeds) and not private:

{table(head, cells)}

Noise on the training features costs a private head on raw features more than the same head without privacy. Noise there,
an offset and imbalance all cost the private head least with unit norm and PCA. (On raw features the offset hurts the head
without privacy most: no clipping bounds its steps.)
"""


def pictures(folder: Path) -> str:
    """Draw the tables on CIFAR-10 into privacy/pictures.svg."""
    found, shifted, disturbed = [*read("accuracy"), *read("dp_sgd")], read("shift"), read("perturbations")
    values = {
        remedy: [[100 * float(row["accuracy"]) for row in of(found, remedy=remedy, epsilon=e)] for e in ("1", "4", "8")]
        for remedy in dict.fromkeys(row["remedy"] for row in found)
    }
    budgets = [
        Series(
            remedy, [1, 4, 8], [np.mean(v) for v in of_one], [min(v) for v in of_one], [max(v) for v in of_one], color=n
        )
        for n, (remedy, of_one) in enumerate(values.items())
    ]
    medians, reached = ([float(row[key]) for row in shifted] for key in ("euclidean median", "accuracy 1"))
    names = [row["backbone"] for row in shifted]
    backbones = [Series("backbones", medians, [100 * value for value in reached], labels=names, mark="points")]
    kinds = list(dict.fromkeys(row["disturbance"] for row in disturbed))
    remedies = list(dict.fromkeys(row["remedy"] for row in disturbed))
    under = [
        Series(
            remedy,
            kinds,
            [
                100 * float(mean(of(disturbed, disturbance=kind, remedy=remedy, epsilon="1"), "accuracy").split()[0])
                for kind in kinds
            ],
            mark="points",
            color=n,
            symbol=n,
        )
        for n, remedy in enumerate(remedies)
    ]
    panels = [
        Panel("Test accuracy by budget, range over 5 seeds", "ε", "accuracy, %", budgets),
        Panel(
            "Feature shift of a backbone and accuracy at ε = 1",
            "median distance to the vertex",
            "accuracy, %",
            backbones,
        ),
        Panel("Disturbed features, ε = 1", "disturbance", "accuracy, %", under),
    ]
    with tempfile.TemporaryDirectory() as place:
        files = write_figures([Figure("privacy", "Private heads on CIFAR-10", panels, columns=3)], Path(place))
        (folder / "privacy").mkdir(exist_ok=True)
        write_text(folder / "privacy" / "pictures.svg", next(f for f in files if f.suffix == ".svg").read_text())
    return "\n## Pictures\n\n![Accuracy by budget, by feature shift, and under disturbances](privacy/pictures.svg)\n"


LEFT = """
## What of the paper is here

| published | here |
|---|---|
| error of one-step NoisyGD against p, β, ε | `python docs/privacy.py`, first tables above |
| accuracy with and without PCA and normalisation at several ε | `scripts/private_cifar.py`, accuracy |
| feature shift of backbones | `scripts/private_cifar.py`, shift |
| accuracy under noise, imbalance, offset | `scripts/private_cifar.py`, perturbations |
| ViT and ResNet-50 features, the whole of CIFAR-10 | absent: no such weights at hand; any features will do in `ood-nc private-head --features` |
| pictures of accuracy by budget, shift and disturbance | privacy/pictures.svg |
| histograms of the shift | absent: the table gives its quantiles |
"""


def main(folder: Path) -> None:
    """Write privacy.md into the folder."""
    intro = "# Private fine-tuning\n\nWritten by `python docs/privacy.py`; a test runs it.\n"
    parts = [intro, accounting(), dimension(), accuracy(), shift(), perturbations(), pictures(folder), LEFT]
    (folder / "privacy.md").write_text("\n".join(part.strip() + "\n" for part in parts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
