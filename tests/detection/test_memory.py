from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from ood_nc.detection import TapStatistics, create_feature_detector, detector_class, list_detectors
from tests.detection.agreement import PROBLEMS, fitted, scores_of

FIT = """
import resource, sys
import numpy as np
from ood_nc.detection import create_detector, detector_class
rng = np.random.default_rng(0)
features = rng.standard_normal((200_000, 256), dtype=np.float32)
if "nonnegative" in detector_class(sys.argv[1]).requires:
    np.abs(features, out=features)
labels = rng.integers(0, 20, len(features))
head = rng.normal(size=(20, 256)), rng.normal(size=20)
create_detector(sys.argv[1]).fit(features[:2000], labels[:2000], head=head).score(features[:10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
create_detector(sys.argv[1]).fit(features, labels, head=head).score(features[:100])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list_detectors(kind="feature"))
def test_peak_memory_of_a_large_fit(name):
    # Field case 27: 205 MB of features, growth below 1.2 GB.
    if sys.platform != "linux":
        pytest.skip("ru_maxrss is in KiB on Linux only")
    done = subprocess.run([sys.executable, "-c", FIT, name], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.2


def test_detectors_leave_no_number_a_sample_and_class_but_logits():
    # For 1,000 classes and a million samples each would be 8 GB, kept for the detectors that follow.
    for name in list_detectors(kind="feature"):
        nonnegative = "nonnegative" in detector_class(name).requires
        problem = next(problem for problem in PROBLEMS if problem.name == ("relu" if nonnegative else "plain"))
        statistics = TapStatistics(problem.features, problem.labels, head=problem.head)
        create_feature_detector(name).fit(statistics)
        kept = {key for key, value in vars(statistics).items() if isinstance(value, torch.Tensor) and value.ndim == 2}
        large = {key for key in kept if len(getattr(statistics, key)) == len(statistics)}
        assert large <= {"_features", "logits", "_of_logits"}, name


@pytest.mark.parametrize("name", list_detectors(kind="feature"))
def test_chunks_change_nothing(name, monkeypatch):
    nonnegative = "nonnegative" in detector_class(name).requires
    problem = next(problem for problem in PROBLEMS if problem.name == ("relu" if nonnegative else "plain"))
    expected = scores_of(fitted(name, problem), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", 150)
    np.testing.assert_allclose(scores_of(fitted(name, problem), problem), expected, rtol=1e-6)
