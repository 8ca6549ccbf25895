"""``ood-nc list``, through the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ood_nc.cli import main


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["list", "backbones", "resnet1?"], "resnet18"),
        (["list", "taps", "resnet18", "layer?"], "layer4"),
        (["list", "detectors", "m*"], "mahalanobis"),
        (["list", "metrics", "nc1*"], "nc1_pinv"),
        (["list", "metrics", "fpr95*"], "fpr95_ood_positive"),
        (["list", "suites"], "imagenet100"),
        (["list", "datasets", "bundled*"], "bundled/textures"),
        (["list", "configs"], "cifar10-cpu"),
    ],
)
def test_list(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert shown in capsys.readouterr().out


def test_detectors_are_listed_without_torch() -> None:
    program = "import sys; from ood_nc.cli import main; main(['list', 'detectors']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
