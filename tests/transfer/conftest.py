"""The data the probes are tested on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train features, train labels, test features, test labels of scikit-learn's digits; read-only."""
    features, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        features.astype(np.float32), labels, test_size=0.4, random_state=0, stratify=labels
    )
    arrays = (train, train_labels, test, test_labels)
    for array in arrays:
        array.flags.writeable = False
    return arrays
