"""The pages on concepts: pictures and numbers are the script's, what they say of the claim's runs holds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = runpy.run_path(str(DOCS / "concepts.py"))
TEXT = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in (DOCS / "concepts").glob("*.md"))


@pytest.mark.slow
def test_the_pages_show_what_the_script_draws_and_say_what_it_finds(tmp_path: Path) -> None:
    facts = SCRIPT["main"](tmp_path)
    assert len(facts) == 8 and [text for text in facts.values() if text not in TEXT] == []
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "concepts").glob("*.svg")}
    assert all(f"]({name})" in TEXT for name in drawn)


def test_what_the_pages_say_of_trained_networks_holds() -> None:
    means = {arm: SCRIPT["claim_means"](arm) for arm in ("baseline_ws", "projector", "random")}
    taps = SCRIPT["TAPS"]
    for arm, values in means.items():
        deep = [tap for tap in taps if ("strict", tap, "nc1") in values]
        nc1 = [values["strict", tap, "nc1"] for tap in deep]
        assert nc1 == sorted(nc1, reverse=True), arm  # falls with depth
        energy = [values["strict", tap, "energy"] for tap in deep]
        assert min(energy) == energy[-1], arm  # best where the head reads
        transfer = [values["strict", tap, "transfer"] for tap in deep]
        assert transfer[0] > min(transfer) < transfer[-1] and 1 < transfer.index(min(transfer)) < len(deep) - 1, arm
    baseline = means["baseline_ws"]
    for detector in ("knn", "mahalanobis"):
        assert baseline["strict", "block5", detector] < baseline["strict", "encoder", detector]
    for tap in ("block5", "projector"):
        assert means["projector"]["strict", "encoder", "mahalanobis"] < means["projector"]["strict", tap, "mahalanobis"]
    assert abs(means["random"]["strict", "encoder", "knn"] - means["projector"]["strict", "encoder", "knn"]) < 10
    assert baseline["paper", "encoder", "energy"] > 3 * baseline["strict", "encoder", "energy"]
