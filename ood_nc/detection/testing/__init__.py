"""What every detector must hold to: ``check_detector(MyDetector)`` in the tests of a package that adds one."""

from __future__ import annotations

from ood_nc.detection.testing.feature_checks import check_detector, detector_checks

__all__ = ["check_detector", "detector_checks"]
