from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ood_nc.cli import main, quickstart
from ood_nc.cli.command import find_config
from ood_nc.cli.quickstart import collapse_sentence
from ood_nc.config import load
from ood_nc.evaluation import Results


def nc1(**taps: float) -> Results:
    common = {"protocol": "strict", "kind": "collapse", "dataset": "id_train", "metric": "nc1_pinv"}
    return Results(
        rows=[{**dict.fromkeys(("run", "group")), **common, "tap": tap, "value": v} for tap, v in taps.items()]
    )


def test_the_sentence_has_geometric_means_with_students_interval_paired_by_seed() -> None:
    baseline = [nc1(encoder=value) for value in (0.01, 0.02, 0.04)]
    controlled = [nc1(encoder=e, projector=p) for e, p in ((0.03, 0.004), (0.066, 0.01), (0.14, 0.018))]
    found = collapse_sentence(baseline, controlled)
    logs = np.log([3.0, 3.3, 3.5])
    ends = np.exp(ttest_1samp(logs, 0).confidence_interval())
    assert f"of the encoder is {np.exp(logs.mean()):.2g} [{ends[0]:.2g}, {ends[1]:.2g}] times" in found
    assert found.startswith("Collapse was controlled:")
    assert found.endswith("(95 % over 3 seeds).")


@pytest.mark.parametrize(
    ("encoders", "projectors", "said"),
    [
        ((3.0, 3.0, 3.1), (0.5, 0.5, 0.6), "Collapse was controlled"),
        ((3.0, 3.0, 3.1), (0.1, 0.9, 3.0), "Collapse moved as wanted, by no more than seeds differ"),
        ((3.0, 3.0, 3.1), (1.5, 1.4, 1.5), "Collapse was not controlled"),
        ((0.9, 0.8, 0.9), (0.5, 0.5, 0.6), "Collapse was not controlled"),
    ],
)
def test_what_is_said(encoders: tuple[float, ...], projectors: tuple[float, ...], said: str) -> None:
    controlled = [nc1(encoder=e, projector=p) for e, p in zip(encoders, projectors, strict=True)]
    assert collapse_sentence([nc1(encoder=1.0)] * 3, controlled).startswith(said)


@pytest.mark.slow
def test_it_compares_the_seeds_of_both_and_says_first_what_happened_to_collapse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.yaml"
    changes = {"train.epochs": 1, "data.limit": 10, "data.eval_limit": 30, "evaluation.bootstrap": 20}
    changes |= {"evaluation.detectors": ["energy", "knn"], "evaluation.probes": ["linear"]}
    small.write_text(load(find_config("quickstart"), changes).to_yaml())
    monkeypatch.setattr(quickstart, "RECIPE", str(small))
    monkeypatch.setattr(quickstart, "SEEDS", (0, 1))
    assert main(["quickstart", "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "controlled against baseline (2 seeds)" in said
    assert said.index("Collapse ") < said.index("docs/claim.md") < said.index("controlled against baseline")
    page = (tmp_path / "out" / "report.html").read_text().partition("</h1>")[2]
    assert page.index("Collapse ") < page.index("controlled against baseline")
    assert main(["quickstart", "--output", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 0
