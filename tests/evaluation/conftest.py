"""One evaluation of a tiny model on bundled images, shared by the tests that look at different parts of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ood_nc.evaluation import Results, evaluate
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments, tiny_model


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ControlledModel]:
    return tiny_model


@pytest.fixture(scope="session")
def model() -> ControlledModel:
    return tiny_model()


@pytest.fixture(scope="session")
def evaluated(model: ControlledModel) -> Results:
    return evaluate(model, **arguments())
