"""Collapse, metric by metric: derivations, pictures, and the cases where a metric misleads.

Running it computes every number and draws every picture of docs/collapse.md: python docs/collapse.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ood_nc.collapse import (
    METRICS,
    ClassStatistics,
    CollapseReport,
    CollapseTracker,
    ShardedStatistics,
    confused_pairs,
    difference_intervals,
    entropy_nn,
    etf_floor,
    measure,
    metric_intervals,
    pabs,
)

RNG = np.random.default_rng(0)
COLORS = ("#3366aa", "#cc5544", "#449966", "#aa8833", "#775599", "#667788")


class Page:
    """A Markdown page under construction, and the folder of its pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text.strip() + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table."""
        lines = [head, ["---"] * len(head), *rows]
        self.write("\n".join("| " + " | ".join(show(cell) for cell in line) + " |" for line in lines))

    def draw(self, name: str, panels: Sequence[tuple[str, np.ndarray, np.ndarray]], caption: str) -> None:
        """Draw one scatter plot for each (title, points, classes), side by side, at one scale."""
        size, reach = 180, 1.1 * max(np.abs(points).max() for _, points, _ in panels)
        shapes = []
        for column, (title, points, classes) in enumerate(panels):
            left = column * (size + 10)
            shapes.append(f'<rect x="{left}" y="18" width="{size}" height="{size}" fill="none" stroke="#999"/>')
            shapes.append(f'<text x="{left}" y="12" font-size="11" font-family="sans-serif" fill="#777">{title}</text>')
            for point, label in zip(points, classes, strict=True):
                x, y = left + size / 2 * (1 + point[0] / reach), 18 + size / 2 * (1 - point[1] / reach)
                color = COLORS[int(label) % len(COLORS)]
                shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{color}" fill-opacity="0.6"/>')
        width = len(panels) * (size + 10)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {size + 20}" width="{width}">'
        (self.folder / "collapse").mkdir(exist_ok=True)
        picture = svg + "\n".join(shapes) + "</svg>\n"
        (self.folder / "collapse" / f"{name}.svg").write_text(picture, encoding="utf-8")
        self.write(f"![{caption}](collapse/{name}.svg)\n\n*{caption}*")

    def save(self) -> None:
        """Write the page."""
        (self.folder / "collapse.md").write_text("\n".join(self.parts), encoding="utf-8")


def show(value: object) -> str:
    """Three digits for a number."""
    return f"{value:.3g}" if isinstance(value, float) else "undefined" if value is None else str(value)


def cloud(means: np.ndarray, spread: float | Sequence[float], n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian samples around class means; ``spread`` is a standard deviation for all axes or for each."""
    labels = np.repeat(np.arange(len(means)), n)
    return means[labels] + RNG.normal(size=(len(labels), means.shape[1])) * np.asarray(spread), labels


def polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    """Corners (n, 2) of a regular polygon."""
    angles = 2 * np.pi * np.arange(corners) / corners + np.pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def report(h: np.ndarray, y: np.ndarray, **arguments: object) -> CollapseReport:
    """Statistics and metrics of features h (N, d) of classes y."""
    stats = ClassStatistics(int(y.max()) + 1, h.shape[1]).update(h, y)
    return measure(stats, **arguments)  # type: ignore[arg-type]


def variability(page: Page) -> None:
    """NC1."""
    page.write(r"""
## NC1: do the samples of a class fall on one point?

One pass over the features gives the class means $\mu_c$, their unweighted mean $\mu_G$, the within-class covariance
$\Sigma_W = \frac1N \sum_i (h_i - \mu_{y_i})(h_i - \mu_{y_i})'$ and, with $M$ the rows $\mu_c - \mu_G$, the covariance
of the means $\Sigma_B = \frac1C M'M$. The metrics differ in what they divide $\Sigma_W$ by.

- `nc1_ratio` $= \mathrm{tr}\,\Sigma_W / \mathrm{tr}\,\Sigma_B$: all noise counts, whatever its direction.
  `within_share` is the same number mapped to [0, 1].
- `nc1_pinv` $= \mathrm{tr}(\Sigma_W \Sigma_B^+) / C$: with $\Sigma_B = V \Lambda V'$ it is $\frac1C \sum_k v_k'
  \Sigma_W v_k / \lambda_k$ over the $\min(C - 1, d)$ directions that the means span: noise outside them does not
  count at all.
- `vci` $= 1 - \mathrm{tr}(\Sigma_T^+ \Sigma_B) / \min(d, C - 1)$, $\Sigma_T = \Sigma_W + \Sigma_B$: the same question
  after whitening, so no invertible linear map changes it.
- `cdnv`: mean over pairs of $(v_i + v_j) / (2 |\mu_i - \mu_j|^2)$: one pair of close classes dominates it.
""")
    two = np.array([[-1.0, 0], [1, 0]])
    near = np.array([[-1.0, 0], [-0.8, 0], [1, 0]])
    cases = {"along": cloud(two, [0.3, 0.02]), "across": cloud(two, [0.02, 0.3]), "a close pair": cloud(near, 0.08)}
    reports = {name: report(*case) for name, case in cases.items()}
    page.draw(
        "nc1", [(name, *case) for name, case in cases.items()], "The same amount of noise, along and across the means"
    )
    names = ("nc1_ratio", "nc1_pinv", "vci", "cdnv")
    page.table(["", *names], [[case, *(found.to_dict()[n] for n in names)] for case, found in reports.items()])
    page.write("""
**When they mislead.** `nc1_pinv` and `vci` call the second cloud collapsed although its samples are as spread as the
first's; the ratios call both the same although only the first can confuse its classes. In the third, three means lie
on a line: `nc1_pinv` divides by the tiny second eigenvalue that the noise of the means gives, and explodes, `vci`
counts that direction as not collapsed, and `cdnv` is large because of two classes only, which `confused_pairs` names.
With few samples a class every value is too small: the sample means absorb a part of the noise, so compare equal
numbers of samples.
""")
    assert reports["along"].nc1_pinv > 50 * reports["across"].nc1_pinv
    assert reports["a close pair"].nc1_pinv > 100 * reports["along"].nc1_pinv
    assert math.isclose(reports["along"].nc1_ratio, reports["across"].nc1_ratio, rel_tol=0.3)
    pair = confused_pairs(ClassStatistics(3, 2).update(*cases["a close pair"]), 1)[0]
    assert (pair.first, pair.second) == (0, 1)


def geometry(page: Page) -> None:
    """NC2 and NC3."""
    page.write(r"""
## NC2 and NC3: a simplex, and a classifier in its image

At full collapse the centred means have equal lengths (`nc2_norm`, standard deviation over mean, is 0) and equal
angles with cosine $-1/(C - 1)$ (`nc2_angle` is 0): their Gram matrix is that of a simplex equiangular tight frame
(ETF), $I - 11'/C$. `nc2_etf_means` is the distance $|MM'/|MM'|_F - (I - 11'/C)/\sqrt{C - 1}|_F$, and `nc2_etf` the
same for the rows of $W$. `nc3_duality` puts $WM'$ in place of $MM'$; `nc3_papyan` $= |W/|W|_F - M/|M|_F|_F$ and
`nc3_alignment`, the mean cosine, ask for $W \propto M$ without asking for an ETF.
""")
    triangle = polygon(3)
    stretched = triangle * [1.6, 0.6]
    cases = {"simplex": cloud(triangle, 0.05), "stretched": cloud(stretched, 0.05)}
    page.draw(
        "nc2", [(name, *case) for name, case in cases.items()], "A simplex ETF of three classes, and one stretched"
    )
    names = ("nc2_norm", "nc2_angle", "nc2_etf_means", "nc3_duality", "nc3_papyan", "nc3_alignment")
    weights = {"simplex": triangle, "stretched": stretched}
    rows = {name: report(*case, weight=weights[name]).to_dict() for name, case in cases.items()}
    page.table(["W = means", *names], [[name, *(row[n] for n in names)] for name, row in rows.items()])
    many = report(*cloud(RNG.normal(size=(200, 512)), 0.01, n=2))
    page.write(f"""
**When they mislead.** `nc3_duality` is far from 0 for the stretched means although W and means are dual: it asks for
the ETF too. Independent random directions are nearly orthogonal in many dimensions, so `nc2_angle` is small without
any training: 200 random means in 512 dimensions give {show(many.nc2_angle)}. Compare it with that, not with 1.
""")
    assert rows["simplex"]["nc2_etf_means"] < 0.05 < rows["stretched"]["nc3_duality"]
    assert rows["stretched"]["nc3_papyan"] < 0.05
    assert many.nc2_angle < 0.06


def decisions(page: Page) -> None:
    """NC4 and NC5."""
    means = polygon(3)
    features, labels = cloud(means, 0.25)
    found = report(features, labels, weight=means, bias=np.zeros(3), features=features, labels=labels)
    biased = report(features, labels, weight=means, bias=np.array([1.0, 0, 0]), features=features, labels=labels)
    shifted = report(features + 1, labels, weight=means, features=features + 1, labels=labels)
    page.write(f"""
## NC4 and NC5: what the geometry decides

`nc4_ncc` is the share of samples whose nearest class mean is not the head's prediction, `ncc_accuracy` the share
whose nearest mean is their own class's. Both need a second pass over the features. `nc4_bias` $= |W \\mu_G + b|_2$ is
what the code of the ICML 2025 paper calls NC4: 0 when the head is centred, but another quantity.

| | nc4_ncc | ncc_accuracy | nc4_bias |
| --- | --- | --- | --- |
| head = means | {show(found.nc4_ncc)} | {show(found.ncc_accuracy)} | {show(found.nc4_bias)} |
| a bias for class 0 | {show(biased.nc4_ncc)} | {show(biased.ncc_accuracy)} | {show(biased.nc4_bias)} |
| features + 1 | {show(shifted.nc4_ncc)} | {show(shifted.ncc_accuracy)} | {show(shifted.nc4_bias)} |

**When they mislead.** `nc4_bias` changes with a shift of the features that a bias undoes. On held-out samples, give
`measure` the train statistics as `reference`: a class mean taken from the samples it judges flatters them.

`nc5_ortho`, the mean over classes of $|\\cos(\\mu_c, \\bar h_{{OOD}})|$, needs OOD data and uncentred means: a common
offset of all features, such as the positive mean after a ReLU, raises it for any data.
""")
    assert found.nc4_ncc == 0 < biased.nc4_ncc
    assert found.ncc_accuracy == shifted.ncc_accuracy


def generalised(page: Page) -> None:
    """More classes than dimensions."""
    floor = show(etf_floor(6, 2))
    clumps = np.array([[x, y / 20] for x in (1.0, -1.0) for y in range(3)])
    cases = {"hexagon": cloud(polygon(6), 0.04, 30), "two clumps": cloud(clumps, 0.02, 30)}
    page.write(rf"""
## More classes than dimensions

$C$ vertices of a simplex ETF need $C - 1$ dimensions. For $C > d + 1$ the Gram matrix has rank $d$, and as its share
of the ETF's $C - 1$ equal eigenvalues is at most $\sqrt{{d/(C - 1)}}$, `nc2_etf`, `nc2_etf_means` and `nc3_duality`
cannot fall below $\sqrt{{2 - 2\sqrt{{d/(C - 1)}}}}$ (`etf_floor`): {floor} for six classes in the plane. References
that exist:

- `gnc2_frame`: a tight frame, $M'M \propto I$. The centred tight frames are exactly those that attain the floor,
  which is why they are the reference; for $C \le d + 1$ the value is that of `nc2_etf_means`.
- `gnc2_margin`: the largest cosine with another class, averaged, minus Rankin's bound ($-1/(C - 1)$ up to $C = d +
  1$, 0 up to $C = 2d$; beyond, 0 is subtracted and the value stays positive). A tight frame may hold two equal means;
  this one sees them.
- `gnc2_uniformity`, `uniformity`: how evenly the directions cover the sphere.
""")
    page.draw("gnc", [(name, *case) for name, case in cases.items()], "Six classes in the plane")
    names = ("nc2_etf_means", "gnc2_frame", "gnc2_margin", "gnc2_uniformity", "uniformity")
    rows = {name: report(*case).to_dict() for name, case in cases.items()}
    page.table(["", *names], [[name, *(row[n] for n in names)] for name, row in rows.items()])
    page.write("""
**When they mislead.** No value of `gnc2_margin` beyond C = 2d is known to be the optimum: compare runs, not distances
from 0.
""")
    assert rows["hexagon"]["gnc2_frame"] < 0.05 < rows["two clumps"]["gnc2_frame"]
    assert rows["hexagon"]["nc2_etf_means"] >= etf_floor(6, 2)


def imbalance(page: Page) -> None:
    """Unequal class sizes."""
    means = polygon(4)
    labels = np.repeat(np.arange(4), [500, 500, 5, 5])
    features = means[labels] + 0.1 * RNG.normal(size=(len(labels), 2))
    features[labels >= 2] += 0.6 * RNG.normal(size=(10, 2))
    merged = np.array([[1.0, 0.2], [-1.0, 0.2], [0.1, -1.0], [-0.1, -1.0]])
    found, collapsed = (report(features, labels, weight=weight) for weight in (means, merged))
    page.write(f"""
## Imbalance

$\\Sigma_W$ weighs a class by its samples, so a rare class that has not collapsed is invisible: here two of four
classes have 1 % of the samples and a far wider cloud. `nc1_ratio` is {show(found.nc1_ratio)}, `nc1_ratio_balanced`,
where every class counts the same, {show(found.nc1_ratio_balanced)} (sample weights $1/n_c$ in `update` balance every
metric). The classifier rows of rare classes merge: `minority_collapse`, their mean cosine, is
{show(found.minority_collapse)} for a square of rows and {show(collapsed.minority_collapse)} for merged ones.
`nc2_seli` compares $WW'$ with the optimum for these class sizes instead of the ETF, to tell "collapsed to the
imbalanced optimum" from "not collapsed".
""")
    assert found.nc1_ratio_balanced > 3 * found.nc1_ratio
    assert collapsed.minority_collapse > 0.9


def spectra(page: Page) -> None:
    """Rank and entropy."""
    labels = np.repeat(np.arange(4), 50)
    simplex = np.eye(4)[labels]
    found = report(simplex, labels)
    uniform = RNG.normal(size=(4000, 16))
    page.write(f"""
## Rank and entropy

`effective_rank` is exp of the entropy of the normalised singular values: at exact collapse $C - 1$ for centred
features and $C$ for features as they are (here, four classes: {show(found.effective_rank)} and
{show(found.effective_rank_uncentered)}). `pabs` is the mean cosine between the span of the class means and the
leading directions of the next layer's weight: {show(pabs(np.eye(4), np.eye(4)))} when they agree.

`entropy_nn` is the mean log distance to the nearest neighbour on the unit sphere, what the entropy loss raises.

**When they mislead.** `entropy_nn` depends on the number of samples and on the dimension: the same uniform
distribution gives {show(entropy_nn(uniform[:500]))} with 500 samples and {show(entropy_nn(uniform))} with 4000. Fix
both (`measure` takes 4096).
""")
    assert math.isclose(found.effective_rank, 3, rel_tol=1e-6)
    assert math.isclose(found.effective_rank_uncentered, 4, rel_tol=1e-6)


def tools(page: Page) -> None:
    """Intervals and the tracker."""
    features, labels = cloud(polygon(3), 0.3, 200)
    noisy = features + 0.15 * RNG.normal(size=features.shape)
    first, second = (ShardedStatistics(3, 2).update(h, labels) for h in (features, noisy))
    interval = metric_intervals(first, ["nc1_ratio"])["nc1_ratio"]
    difference = difference_intervals(first, second, ["nc1_ratio"])["nc1_ratio"]
    tracker = CollapseTracker(3, interval=2, window=1, metrics=["nc1_ratio"])
    for step in range(8):
        h, y = cloud(polygon(3), 0.5 / (1 + step), 20)
        tracker.step({"encoder": torch.from_numpy(h)}, torch.from_numpy(y))
    steps, values = tracker.curve("encoder", "nc1_ratio")
    curve = ", ".join(f"{show(value)} at step {step}" for step, value in zip(steps, values, strict=True))
    page.write(f"""
## Intervals, comparison, training curves

`ShardedStatistics` keeps the one pass in shards; leaving out one at a time gives a jackknife interval: `nc1_ratio` is
{show(interval.value)} [{show(interval.low)}, {show(interval.high)}], and the paired difference to a noisier layer
{show(difference.value)} [{show(difference.low)}, {show(difference.high)}]. `CollapseTracker` measures the training
batches in short windows: {curve}.

The four numbers of the ICML 2025 paper are `report.paper()`, for statistics of ID train and a fresh probe's W and b.
""")
    assert interval.low < interval.value < interval.high
    assert difference.high < 0
    assert values[-1] < values[0]


def overview(page: Page) -> None:
    """The table of metrics."""
    page.write("""
## What each metric needs

"low" and "high" say which value means more collapse; "O(C d)" metrics work with `full=False`, without any d x d
matrix.
""")
    rows = [
        [
            f"`{m.name}`",
            m.definition.replace("|", "\\|"),
            m.source,
            m.collapsed or "-",
            ", ".join(m.invariances) or "-",
            m.memory,
        ]
        for m in METRICS.values()
    ]
    page.table(["metric", "definition", "source", "collapsed", "unchanged by", "memory"], rows)


def main(folder: Path) -> None:
    """Write collapse.md and its pictures into ``folder``."""
    page = Page(folder)
    page.write("""
# Neural collapse, metric by metric

Written by `python docs/collapse.py`, which computes the numbers and draws the pictures; a test runs it.
`ClassStatistics` takes one pass over the features, `measure` returns every metric below.
""")
    for section in (variability, geometry, decisions, generalised, imbalance, spectra, tools, overview):
        section(page)
    page.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
