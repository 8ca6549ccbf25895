from __future__ import annotations

from tests.detection.detectors.test_odin import log_probability_gradient
from tests.detection.images import PROBLEMS, agreement_test, fitted, logits_of, softmax


def oracle(problem, image, temperature=1000.0, epsilon=0.0014, std=None):
    gradient = log_probability_gradient(problem.network, image, temperature)
    largest, place = -1.0, (0, 0, 0)
    for channel in range(image.shape[0]):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                size = abs(float(gradient[channel, row, column]))
                if size > largest:
                    largest, place = size, (channel, row, column)
    moved = image.clone()
    moved[place] += epsilon * float(gradient[place].sign()) / (1 if std is None else std[place[0]])
    return softmax(logits_of(problem.network, moved) / temperature).max()


test_agreement = agreement_test(
    "iodin",
    oracle,
    {},
    {"temperature": 2.0, "epsilon": 0.5},
    {"temperature": 2.0, "epsilon": 0.1, "std": (0.2, 0.5, 1.0)},
    tolerance=1e-10,
)


def test_less_moves_than_in_odin():
    problem = PROBLEMS[0]
    still, one, all_of_them = (
        fitted(name, problem, temperature=1.0, epsilon=epsilon).score(problem.queries)
        for name, epsilon in (("odin", 0.0), ("iodin", 1e-3), ("odin", 1e-3))
    )
    assert (still < one).all()
    assert (one < all_of_them).all()
