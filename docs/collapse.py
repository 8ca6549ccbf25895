"""Collapse, metric by metric: derivations, pictures, and the cases where a metric misleads.

Running it computes every number and draws every picture of docs/collapse.md: python docs/collapse.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page_table import show, table

from ood_nc.collapse import (
    METRICS,
    ClassStatistics,
    CollapseTracker,
    ShardedStatistics,
    confused_pairs,
    difference_intervals,
    entropy_full,
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
        self.write(table(head, rows))

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


def cloud(means: np.ndarray, spread: float | Sequence[float], n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian samples around class means; ``spread`` is a standard deviation for all axes or for each."""
    labels = np.repeat(np.arange(len(means)), n)
    return means[labels] + RNG.normal(size=(len(labels), means.shape[1])) * np.asarray(spread), labels


def polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    """Corners (n, 2) of a regular polygon."""
    angles = 2 * np.pi * np.arange(corners) / corners + np.pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def report(h: np.ndarray, y: np.ndarray, **arguments: Any) -> dict[str, float]:
    """The metrics of features h (N, d) of classes y that are defined."""
    found = measure(ClassStatistics(int(y.max()) + 1, h.shape[1]).update(h, y), **arguments).to_dict()
    return {name: value for name, value in found.items() if value is not None}


def variability(page: Page) -> None:
    """NC1."""
    page.write(r"""
## NC1: do the samples of a class fall on one point?

One pass over the features gives the class means $\mu_c$, their unweighted mean $\mu_G$, the within-class covariance
$\Sigma_W = \frac1N \sum_i (h_i - \mu_{y_i})(h_i - \mu_{y_i})'$ and, with $M$ the rows $\mu_c - \mu_G$, the covariance
of the means $\Sigma_B = \frac1C M'M$. `trace_within` $= \mathrm{tr}\,\Sigma_W$ is the mean squared distance
of a sample to its class mean and `trace_between` $= \mathrm{tr}\,\Sigma_B$ that of a class mean to $\mu_G$; both
change with the scale of the features. The metrics differ in what they divide $\Sigma_W$ by.

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
    page.table(["", *names], [[case, *(found[n] for n in names)] for case, found in reports.items()])
    page.write("""
**When they mislead.** `nc1_pinv` and `vci` call the second cloud collapsed although its samples are as spread as the
first's; the ratios call both the same although only the first can confuse its classes. In the third, three means lie
on a line: `nc1_pinv` divides by the tiny second eigenvalue that the noise of the means gives, and explodes, `vci`
counts that direction as not collapsed, and `cdnv` is large because of two classes only, which `confused_pairs` names.
With few samples a class every value is too small: the sample means absorb a part of the noise, so compare equal
numbers of samples.
""")
    assert reports["along"]["nc1_pinv"] > 50 * reports["across"]["nc1_pinv"]
    assert reports["a close pair"]["nc1_pinv"] > 100 * reports["along"]["nc1_pinv"]
    assert math.isclose(reports["along"]["nc1_ratio"], reports["across"]["nc1_ratio"], rel_tol=0.3)
    pair = confused_pairs(ClassStatistics(3, 2).update(*cases["a close pair"]), 1)[0]
    assert (pair.first, pair.second) == (0, 1)


def geometry(page: Page) -> None:
    """NC2 and NC3."""
    page.write(r"""
## NC2 and NC3: a simplex, and a classifier in its image

At full collapse the centred means have equal lengths (`nc2_norm`, standard deviation over mean, is 0) and equal
angles with cosine $-1/(C - 1)$ (`nc2_angle` is 0): their Gram matrix is that of a simplex equiangular tight frame
(ETF), $I - 11'/C$. `nc2_etf_means` is the distance $|MM'/|MM'|_F - (I - 11'/C)/\sqrt{C - 1}|_F$, and `nc2_etf` the
same for the rows of $W$, as `nc2_norm_head` and `nc2_angle_head` are. `nc3_duality` puts $WM'$ in place of $MM'$;
`nc3_papyan` $= |W/|W|_F - M/|M|_F|_F$ and `nc3_alignment`, the mean cosine, ask for $W \propto M$ without asking for an
ETF.
""")
    triangle = polygon(3)
    stretched = triangle * [1.6, 0.6]
    cases = {"simplex": cloud(triangle, 0.05), "stretched": cloud(stretched, 0.05)}
    page.draw(
        "nc2", [(name, *case) for name, case in cases.items()], "A simplex ETF of three classes, and one stretched"
    )
    names = ("nc2_norm", "nc2_angle", "nc2_etf_means", "nc3_duality", "nc3_papyan", "nc3_alignment")
    weights = {"simplex": triangle, "stretched": stretched}
    rows = {name: report(*case, weight=weights[name]) for name, case in cases.items()}
    page.table(["W = means", *names], [[name, *(row[n] for n in names)] for name, row in rows.items()])
    many = report(*cloud(RNG.normal(size=(200, 512)), 0.01, n=2))
    page.write(f"""
**When they mislead.** `nc3_duality` is far from 0 for the stretched means although W and means are dual: it asks for
the ETF too. Independent random directions are nearly orthogonal in many dimensions, so `nc2_angle` is small without
any training: 200 random means in 512 dimensions give {show(many["nc2_angle"])}. Compare it with that, not with 1.
""")
    assert rows["simplex"]["nc2_etf_means"] < 0.05 < rows["stretched"]["nc3_duality"]
    assert rows["stretched"]["nc3_papyan"] < 0.05
    assert many["nc2_angle"] < 0.06


def decisions(page: Page) -> None:
    """NC4 and NC5."""
    means = polygon(3)
    features, labels = cloud(means, 0.25)
    bias = np.array([1.0, 0, 0])
    found = report(features, labels, weight=means, bias=np.zeros(3), features=features, labels=labels)
    biased = report(features, labels, weight=means, bias=bias, features=features, labels=labels)
    shifted = report(features + 1, labels, weight=means, features=features + 1, labels=labels)
    page.write(f"""
## NC4: what the geometry decides

Where the centred means $m_c = \\mu_c - \\mu_G$ have equal norms, $W \\propto M$ and $b = -W \\mu_G$, the class that
maximises $w_c'h + b_c$ is the one that minimises $|h - \\mu_c|$: the head is a nearest-class-mean classifier. `nc4_ncc`
is the share of samples for which it is not, `ncc_accuracy` the share whose nearest mean is their own class's. Both
need a second pass over the features. `nc4_bias` $= |W \\mu_G + b|_2$ is what the code of the ICML 2025 paper calls
NC4: the condition on b alone.

| | nc4_ncc | ncc_accuracy | nc4_bias |
| --- | --- | --- | --- |
| head = means | {show(found["nc4_ncc"])} | {show(found["ncc_accuracy"])} | {show(found["nc4_bias"])} |
| a bias for class 0 | {show(biased["nc4_ncc"])} | {show(biased["ncc_accuracy"])} | {show(biased["nc4_bias"])} |
| features + 1 | {show(shifted["nc4_ncc"])} | {show(shifted["ncc_accuracy"])} | {show(shifted["nc4_bias"])} |
""")
    nearest = ((features[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    panels = [
        ("by the nearest mean", features, nearest),
        ("by the head", features, (features @ means.T + bias).argmax(1)),
    ]
    page.draw("nc4", panels, "The same samples by nearest mean and by a head with a bias for class 0 (the top one)")
    page.write("""
**When they mislead.** `nc4_ncc` compares two decisions, not a decision with the truth: it is 0 for a layer whose head
and means fail together. `nc4_bias` changes with a shift of the features that a bias undoes, and grows with the scale of
W. On held-out samples, give `measure` the train statistics as `reference`: a class mean taken from the samples it
judges flatters them.
""")
    assert found["nc4_ncc"] == 0 < biased["nc4_ncc"]
    assert found["ncc_accuracy"] == shifted["ncc_accuracy"]


def orthogonality(page: Page) -> None:
    """NC5."""
    two, labels = cloud(np.array([[-1.0, 0], [1, 0]]), 0.1, 40)
    outside = cloud(np.array([[0, 0.8]]), 0.1, 40)[0]
    points, classes = np.concatenate([two, outside]), np.concatenate([labels, np.full(len(outside), 2)])
    before, after = (report(two + offset, labels, ood=outside + offset)["nc5_ortho"] for offset in (0, 0.6))
    page.write(f"""
## NC5: OOD features at right angles

`nc5_ortho` is the mean over classes of $|\\cos(\\mu_c, \\bar h_{{OOD}})|$, with uncentred means: 0 where the OOD
features lie, on average, outside the span of the class means. That is what NECO scores by: the share of
a feature's norm inside the span. Here it is {show(before)}, and {show(after)} after a common offset.
""")
    panels = [("orthogonal", points, classes), ("the same with an offset", points + 0.6, classes)]
    page.draw("nc5", panels, "Two ID classes and one OOD cloud (the third colour); the origin is the middle of a panel")
    page.write("""
**When it misleads.** A common offset of all features, such as the positive mean after a ReLU, raises it for any data.
It reads the mean OOD feature alone: OOD samples that lie along the class means in all directions average to 0.
""")
    assert before < 0.2 < 0.5 < after


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
- `gnc2_uniformity`: the distances between the directions $m_c$ of the means are all equal in a simplex ETF, so the
  standard deviation of $\log |m_c - m_k|$ over its |mean| measures how far they are from that; 0 is out of reach here.
- `uniformity` $= \log$ of the mean over pairs of $e^{{-2 |m_c - m_k|^2}}$: a potential that close pairs dominate,
  and that the uniform distribution on the sphere minimises; at least $-4C/(C - 1)$.

`gnc2_frame_head`, `gnc2_margin_head`, `gnc2_uniformity_head` and `uniformity_head` are the same for the rows of W.
""")
    page.draw("gnc", [(name, *case) for name, case in cases.items()], "Six classes in the plane")
    names = ("nc2_etf_means", "gnc2_frame", "gnc2_margin", "gnc2_uniformity", "uniformity")
    rows = {name: report(*case) for name, case in cases.items()}
    page.table(["", *names], [[name, *(row[n] for n in names)] for name, row in rows.items()])
    page.write("""
**When they mislead.** No value of `gnc2_margin` beyond C = 2d is known to be the optimum: compare runs, not distances
from 0. `gnc2_frame` is 0 for tight frames whose vectors coincide, and `gnc2_uniformity` divides by a mean log distance,
which is near 0 where typical distances are near 1: read all of them, and the pairs of `confused_pairs`.
""")
    assert rows["hexagon"]["gnc2_frame"] < 0.05 < rows["two clumps"]["gnc2_frame"]
    assert rows["hexagon"]["nc2_etf_means"] >= etf_floor(6, 2)


def imbalance(page: Page) -> None:
    """Unequal class sizes."""
    means = polygon(4)
    counts = np.array([500, 500, 5, 5])
    labels = np.repeat(np.arange(4), counts)
    features = means[labels] + 0.1 * RNG.normal(size=(len(labels), 2))
    features[labels >= 2] += 0.6 * RNG.normal(size=(10, 2))
    merged = np.array([[1.0, 0.2], [-1.0, 0.2], [0.1, -1.0], [-0.1, -1.0]])
    found, collapsed = (report(features, labels, weight=weight) for weight in (means, merged))
    # W W' of the imbalanced optimum: V L V' of the encoded labels (I - 11'/C) diag(sqrt n) = V L U'.
    axes, lengths, _ = np.linalg.svd((np.eye(4) - 0.25) * np.sqrt(counts))
    optimum = axes * np.sqrt(lengths)
    wide = np.zeros((4, 4))
    wide[np.arange(4), np.arange(4)] = 1
    optimal = report(np.eye(4)[labels], labels, weight=optimum)
    simplex = report(np.eye(4)[labels], labels, weight=wide - 0.25)
    page.write(f"""
## Imbalance

$\\Sigma_W$ weighs a class by its samples, so a rare class that has not collapsed is invisible: here two of four
classes have 1 % of the samples and a far wider cloud. `nc1_ratio` is {show(found["nc1_ratio"])}, `nc1_ratio_balanced`
$= \\frac1C \\sum_c v_c / \\mathrm{{tr}}\\,\\Sigma_B$, where every class counts the same,
{show(found["nc1_ratio_balanced"])} (sample weights $1/n_c$ in `update` balance every metric). The classifier rows of
rare classes merge, as their few samples pull less on the loss than the many that push both away:
`minority_collapse`, their mean cosine, is {show(found["minority_collapse"])} for a square of rows and
{show(collapsed["minority_collapse"])} for merged ones.

Cross-entropy with a small ridge does not tend to an ETF here. Its limit interpolates the encoded labels: with
$(I - 11'/C)\\,\\mathrm{{diag}}(\\sqrt{{n}}) = V L U'$, $WW' \\propto V L V'$. `nc2_seli` is the distance from that
matrix, to tell "collapsed to the imbalanced optimum" from "not collapsed":

| | nc2_etf | nc2_seli |
| --- | --- | --- |
| W of the imbalanced optimum | {show(optimal["nc2_etf"])} | {show(optimal["nc2_seli"])} |
| W = simplex ETF | {show(simplex["nc2_etf"])} | {show(simplex["nc2_seli"])} |
""")
    page.draw("imbalance", [("all", features, labels)], "Two common classes, and two rare ones that have not collapsed")
    page.write("""
**When they mislead.** The variance of a class of five samples is itself a guess: `nc1_ratio_balanced` is as noisy as
its rarest class; `measure_classes` lists the counts beside the variances. `minority_collapse` looks at classes below
half of the mean size and is undefined with fewer than two; close rows can also mean that two rare classes are alike.
""")
    assert found["nc1_ratio_balanced"] > 3 * found["nc1_ratio"]
    assert collapsed["minority_collapse"] > 0.9
    assert optimal["nc2_seli"] < 1e-6 < 0.1 < optimal["nc2_etf"]
    assert simplex["nc2_etf"] < 1e-6 < 0.1 < simplex["nc2_seli"]


def spectra(page: Page) -> None:
    """Rank and alignment with the next layer."""
    labels = np.repeat(np.arange(4), 50)
    simplex = np.eye(4)[labels]
    found = report(simplex, labels)
    clouds = {"round": cloud(np.zeros((1, 2)), 0.5, 200), "flat": cloud(np.zeros((1, 2)), [0.5, 0.02], 200)}
    ranks = {name: report(*case)["effective_rank"] for name, case in clouds.items()}
    moved = report(clouds["round"][0] + 20, clouds["round"][1])["effective_rank_uncentered"]
    page.write(f"""
## Rank: how many directions are in use

With $p_k = s_k / \\sum_j s_j$ the normalised singular values of the features, `effective_rank` is
$\\exp(-\\sum_k p_k \\log p_k)$: r for r equal values, and less the more they differ. The $s_k^2$ are the
eigenvalues of $\\Sigma_W$ plus the weighted scatter of the means, so no feature matrix is needed. At exact collapse it
is $C - 1$ for centred features and
$C$ for features as they are (`effective_rank_uncentered`); here, four classes: {show(found["effective_rank"])} and
{show(found["effective_rank_uncentered"])}. The clouds below have {show(ranks["round"])} and {show(ranks["flat"])}.

`pabs` (intermediate layers; `pabs_conv` for convolutions, in the space of the channels) is the mean cosine of the
principal angles between the span of the class means and the leading right singular vectors of the next layer's weight:
{show(pabs(np.eye(4)[:2], np.eye(4)[:2]))} where the layer reads just the directions that separate the classes,
{show(pabs(np.eye(4)[:2], np.eye(4)[2:]))} where it reads others.
""")
    page.draw(
        "rank", [(name, *case) for name, case in clouds.items()], "Two directions in use, and little more than one"
    )
    page.write(f"""
**When they mislead.** Uncentred, one far mean hides all else: the round cloud, 20 units from the origin, has rank
{show(moved)}. A low rank is not collapse: it says nothing of classes. `pabs` is 1 whatever the layer
does where the class means and the weight both have rank d.
""")
    assert math.isclose(found["effective_rank"], 3, rel_tol=1e-6)
    assert math.isclose(found["effective_rank_uncentered"], 4, rel_tol=1e-6)
    assert ranks["flat"] < 1.3 < 1.9 < ranks["round"]
    assert moved < 1.3


def entropies(page: Page) -> None:
    """Nearest-neighbour entropy."""
    angles = RNG.uniform(0, 2 * np.pi, 120)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    bunches = np.round(angles / (np.pi / 2)) * np.pi / 2 + 0.05 * RNG.normal(size=120)
    bunched = np.stack([np.cos(bunches), np.sin(bunches)], axis=1)
    uniform = RNG.normal(size=(4000, 16))
    full = entropy_full(around)
    page.write(f"""
## Entropy: how full is the sphere?

With $\\rho_i$ the distance of a normalised feature to its nearest neighbour, the density there is about $1 / (N V_D
\\rho_i^D)$, so the mean of $-\\log$ density, the entropy, is $D$ times the mean of $\\log \\rho_i$ and constants.
`entropy_nn` is that mean alone, what the entropy loss raises: {show(entropy_nn(around))} for samples all around the
circle and {show(entropy_nn(bunched))} for four bunches. `entropy_full` adds the constants $\\log V_D + \\psi(N) -
\\psi(1)$ (Kozachenko and Leonenko): {show(full)} nats around the circle, where the uniform distribution has $\\log
2\\pi$ = {show(math.log(2 * math.pi))}.
""")
    panels = [("all around", around, np.zeros(120)), ("four bunches", bunched, np.zeros(120))]
    page.draw("entropy", panels, "Features on the circle: high and low entropy")
    page.write(f"""
**When it misleads.** `entropy_nn` depends on the number of samples and on the dimension: the same uniform
distribution gives {show(entropy_nn(uniform[:500]))} with 500 samples and {show(entropy_nn(uniform))} with 4000. Fix
both (`measure` takes 4096). Equal samples count with a distance of about 1e-8, whatever the
others do; `entropy_full` is undefined then.
""")
    assert entropy_nn(bunched) < entropy_nn(around)
    assert abs(full - math.log(2 * math.pi)) < 0.3
    assert entropy_nn(uniform) < entropy_nn(uniform[:500])


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
{show(difference.value)} [{show(difference.low)}, {show(difference.high)}]. The interval lies around the value without
its bias ({show(interval.bias)}): the mean of n samples is nearer to them than the true mean, by the factor 1 - 1/n of
the variance. `CollapseTracker` measures the training
batches in short windows: {curve}.

The four numbers of the ICML 2025 paper are `report.paper()`, for statistics of ID train and a fresh probe's W and b.
""")
    assert interval.low < interval.value < interval.high
    assert difference.high < 0
    assert values[-1] is not None and values[0] is not None and values[-1] < values[0]


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
    sections = (variability, geometry, decisions, orthogonality, generalised, imbalance, spectra, entropies)
    for section in (*sections, tools, overview):
        section(page)
    page.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
