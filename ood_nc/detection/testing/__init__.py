"""What every detector must hold to: ``check_detector(MyDetector)`` in the tests of a package that adds one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ood_nc.detection.base import BaseDetector
from ood_nc.detection.testing import feature_checks, input_checks, shared_checks
from ood_nc.detection.testing.problem import problem_for

__all__ = ["check_detector", "detector_checks"]


def check_detector(cls: type[BaseDetector]) -> None:
    """Run every check of its kind on a detector class.

    Raises:
        CheckError: a check fails; the message says which and what it saw.

    Example:
        >>> from ood_nc.detection import detector_class
        >>> check_detector(detector_class("energy"))
    """
    for check in detector_checks(cls.kind).values():
        check(cls)


def detector_checks(kind: str = "feature") -> dict[str, Callable[[type[Any]], None]]:
    """Every check of a kind of detector by name, to parametrise a test with; each is given a problem of its own."""
    found = {**vars(shared_checks), **vars(input_checks if kind == "input" else feature_checks)}
    prefix = "_check_"
    checks = {name.removeprefix(prefix): check for name, check in sorted(found.items()) if name.startswith(prefix)}
    return {name: partial(_on_a_problem, check) for name, check in checks.items()}


def _on_a_problem(check: Callable[[type[Any], Any], None], cls: type[BaseDetector]) -> None:
    check(cls, problem_for(cls))
