"""Words of small runs on the bundled digits, for tests through the command line."""

from __future__ import annotations

SMALL = (
    *("--config", "quickstart", "--model", "test_resnet", "--img-size", "32", "--epochs", "1", "--limit", "20"),
    *("--taps", "layer3,encoder,projector", "-j", "0", "--device", "cpu"),
)
SMALL_EVALUATION = (*SMALL, "--eval-limit", "60", "--bootstrap", "50")
