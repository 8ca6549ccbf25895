"""Pictures of the pages on concepts, and the numbers that stand in them.

    python docs/concepts.py [FOLDER]

The networks are those of docs/claim/results; everything else is simulated here, so that the truth is known.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import beta, norm

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.detection import create_detector, fpr_at_tpr
from ood_nc.models import simplex_vertices
from ood_nc.scores import auroc, bootstrap_intervals, choose_threshold, conformal_p_values, paired_bootstrap
from ood_nc.transfer import nearest_mean_probe

HERE = Path(__file__).parent
TAPS = ("block1", "block2", "block3", "block4", "block5", "encoder", "projector")
BLUE, RED, GREEN, GREY = "#3f7fd0", "#d0553f", "#3a9a5f", "#777777"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "ood_nc", "font.family": "sans-serif", "font.size": 10, "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "savefig.transparent": True,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)  # fmt: skip


def claim_means(arm: str, suite: str = "fashion") -> dict[tuple[str, str, str], float]:
    """Means over seeds and sets of an arm of the claim by (protocol, tap, what): NC1, FPR95 by detector, transfer error."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for path in sorted((HERE / "claim" / "results").glob(f"{suite}-{arm}-seed*.csv")):
        with path.open(encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                value = float(row["value"]) if row["value"] else float("nan")
                key = (row["protocol"], row["tap"])
                if (row["kind"], row["dataset"], row["metric"]) == ("collapse", "id_train", "nc1_pinv"):
                    found[(*key, "nc1")].append(value)
                elif row["kind"] == "detection" and row["metric"] == "fpr95_id_positive":
                    found[(*key, row["method"])].append(100 * value)
                elif row["kind"] == "transfer" and row["method"] == "linear" and row["metric"] == "accuracy":
                    found[(*key, "transfer")].append(100 - 100 * value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def layers(folder: Path) -> None:
    """Collapse, detection and transfer along the depth of trained networks."""
    figure, (collapse, detection, transfer) = plt.subplots(1, 3, figsize=(9, 3.5))
    for arm, colour in (("baseline_ws", GREY), ("projector", BLUE)):
        means = claim_means(arm)
        taps = [tap for tap in TAPS if ("strict", tap, "nc1") in means]
        collapse.semilogy(taps, [means["strict", tap, "nc1"] for tap in taps], "o-", color=colour, label=arm)
        transfer.plot(taps, [means["strict", tap, "transfer"] for tap in taps], "o-", color=colour, label=arm)
        for detector, line in (("energy", "o:"), ("knn", "s-"), ("mahalanobis", "^--")):
            values = [means["strict", tap, detector] for tap in taps]
            detection.plot(taps, values, line, color=colour, label=f"{detector}, {arm}")
    for axis, title in ((collapse, "NC1"), (detection, "FPR95, %"), (transfer, "transfer error, %")):
        axis.set_title(title)
        axis.tick_params(axis="x", rotation=60)
    # Below all three: six lines leave no corner of a panel free.
    figure.legend(*detection.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    save(figure, folder / "layers.svg")


def protocols(folder: Path) -> None:
    """The same networks, read at two places."""
    baseline, ours = claim_means("baseline_ws"), claim_means("projector")
    bars = {
        "baseline_ws, before its last norm": baseline["paper", "encoder", "energy"],
        "baseline_ws, as the head reads it": baseline["strict", "encoder", "energy"],
        "projector, at the projector, fresh probe": ours["paper", "projector", "energy"],
        "projector, at the projector, its own head": ours["strict", "projector", "energy"],
    }
    figure, axis = plt.subplots(figsize=(7, 2))
    axis.barh(list(bars), list(bars.values()), color=[GREY, GREY, BLUE, BLUE])
    axis.invert_yaxis()
    axis.set_xlabel("FPR95 by energy, %")
    save(figure, folder / "protocols.svg")


def tension(folder: Path) -> dict[str, str]:
    """A toy with one knob: how much of the structure inside a class is left."""
    generator = torch.Generator().manual_seed(0)
    classes, dim, each = 8, 32, 100
    means = simplex_vertices(classes, dim)
    fine = torch.nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    rows = []
    for spread in (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08):
        labels = torch.arange(2 * classes * each) % classes
        sides = torch.arange(len(labels)) // classes % 2

        def draw(labels: torch.Tensor = labels, sides: torch.Tensor = sides, spread: float = spread) -> torch.Tensor:
            inside = (2 * sides - 1)[:, None] * fine[labels] + torch.randn(len(labels), dim, generator=generator) / 4
            sensor = torch.randn(len(labels), dim, generator=generator) / 8
            return means[labels] + spread * inside + sensor

        train, test = draw(), draw()
        outside = torch.nn.functional.normalize(torch.randn(800, dim, generator=generator), dim=1)
        knn = create_detector("knn", normalize=False).fit(train)
        error = fpr_at_tpr(knn.score(test), knn.score(outside))
        probe = nearest_mean_probe(train, 2 * labels + sides, test, 2 * labels + sides)
        nc1 = measure(ClassStatistics(classes, dim).update(train, labels)).nc1_pinv
        rows.append((float(nc1 or 0), 100 * error, 100 - 100 * probe.accuracy))
    collapse, detection, transfer = zip(*rows, strict=True)
    figure, axis = plt.subplots(figsize=(6, 3))
    axis.semilogx(collapse, detection, "o-", color=BLUE, label="FPR95 by k-NN, %")
    axis.semilogx(collapse, transfer, "s-", color=RED, label="error on the finer classes, %")
    axis.set_xlabel("NC1 (left: collapsed)")
    axis.legend()
    save(figure, folder / "tension.svg")
    return {
        "tension, spread": f"FPR95 {detection[0]:.0f} %, error {transfer[0]:.0f} %",
        "tension, collapsed": f"FPR95 {detection[-1]:.0f} %, error {transfer[-1]:.0f} %",
    }


def intervals(folder: Path) -> dict[str, str]:
    """Bootstrap intervals of an AUROC that is known: how often they hold it, and what pairing saves."""
    rng, truth = np.random.default_rng(0), float(norm.cdf(1 / np.sqrt(2)))
    found = []
    for index in range(200):
        scores = rng.normal(1, 1, 100), rng.normal(0, 1, 100)
        low, high = bootstrap_intervals(*scores, ["auroc"], replicates=300, seed=index)["auroc"]
        found.append((low, float(auroc(*scores)), high))
    figure, axis = plt.subplots(figsize=(7, 2.6))
    for index, (low, value, high) in enumerate(found[:50]):
        colour = GREY if low <= truth <= high else RED
        axis.plot([index, index], [low, high], color=colour)
        axis.plot(index, value, ".", color=colour)
    axis.axhline(truth, color=BLUE, linestyle="--")
    axis.set(xlabel="repetition of the experiment", ylabel="AUROC", xticks=[])
    save(figure, folder / "intervals.svg")
    first = rng.normal(1, 1, 500), rng.normal(0, 1, 500)
    second = tuple(side + rng.normal(0.05 * sign, 0.3, 500) for side, sign in zip(first, (1, -1), strict=True))
    paired = paired_bootstrap(second, first, ["auroc"], replicates=1000)["auroc"]
    alone = [bootstrap_intervals(*scores, ["auroc"], replicates=1000)["auroc"] for scores in (first, second)]
    apart = float(np.hypot(*(high - low for low, high in alone)))
    return {
        "intervals, coverage": f"{sum(low <= truth <= high for low, _, high in found)} of 200",
        "intervals, pairing": f"{(paired.high - paired.low):.3f} wide, paired; {apart:.3f} if they were drawn apart",
    }


def p_values(folder: Path) -> dict[str, str]:
    """p-values of ID images, of OOD images and of ID images after a change; and the false alarms of one threshold."""
    rng = np.random.default_rng(0)
    held_out = rng.normal(0, 1, 5000)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    sets = {"fresh ID": (0.0, GREY), "ID after a shift": (-0.7, BLUE), "OOD": (-2.5, RED)}
    values = {name: conformal_p_values(rng.normal(mean, 1, 5000), held_out).numpy() for name, (mean, _) in sets.items()}
    for name, (_, colour) in sets.items():
        axes[0].hist(values[name], bins=20, range=(0, 1), density=True, histtype="step", color=colour, label=name)
    axes[0].set(xlabel="p-value", ylabel="density")
    axes[0].legend()
    alarms = {}
    for n, colour in ((60, RED), (1000, BLUE)):
        # Scores are uniform, so a threshold's false alarm rate is the threshold itself.
        alarms[n] = 100 * np.array([choose_threshold(rng.uniform(0, 1, n), tpr=0.95).value for _ in range(2000)])
        axes[1].hist(
            alarms[n], bins=40, range=(0, 15), density=True, color=colour, alpha=0.4, label=f"{n} held-out images"
        )
        share, rejected = np.linspace(0.001, 15, 200), int(0.05 * (n + 1) + 1e-9)
        axes[1].plot(share, beta.pdf(share / 100, rejected, n + 1 - rejected) / 100, color=colour)
    axes[1].set(xlabel="false alarms with that threshold, %", ylabel="density")
    axes[1].legend()
    save(figure, folder / "p_values.svg")
    return {
        "p-values, ID": f"{100 * (values['fresh ID'] <= 0.05).mean():.1f} % of fresh ID images",
        "p-values, shift": f"{100 * (values['ID after a shift'] <= 0.05).mean():.0f} % after the shift",
        "p-values, 60": f"with 60 held-out images between {np.quantile(alarms[60], 0.05):.1f} % and {np.quantile(alarms[60], 0.95):.1f} %",
        "p-values, 1000": f"with 1,000 between {np.quantile(alarms[1000], 0.05):.1f} % and {np.quantile(alarms[1000], 0.95):.1f} %",
    }


def save(figure: Any, path: Path) -> None:
    """Write a picture, the same bytes from the same numbers."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(folder: Path) -> dict[str, str]:
    """Draw everything into a folder; what the pages say of the simulations, in words."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        layers(folder)
        protocols(folder)
        return tension(folder) | intervals(folder) | p_values(folder)


if __name__ == "__main__":
    for name, text in main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "concepts").items():
        print(f"{name}: {text}")
