from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, peer, peer_tensors


def products(problem, rows):
    """h dL/dh by autograd, L the Kullback-Leibler divergence of the softmax from uniform."""
    features = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    logits = features @ torch.tensor(problem.weight).double().T + torch.tensor(problem.bias).double()
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    torch.nn.functional.kl_div(logits.log_softmax(dim=1), uniform, reduction="sum").backward()
    return (features * features.grad).detach().numpy()


def oracle(problem, alpha=None, bins=50, filled=50):
    train, _, queries = problem.exact()
    train, queries = (products(problem, rows) for rows in (train, queries))
    alpha = 1 / np.abs(train).mean() if alpha is None else alpha
    edges = np.linspace(0, 1, bins + 1)
    edges[-1] = np.inf
    with np.errstate(over="ignore"):
        train, queries = (1 / (1 + np.exp(-alpha * rows)) for rows in (train, queries))
    scores = np.zeros(len(queries))
    for neuron in range(train.shape[1]):
        counts, _ = np.histogram(train[:, neuron], [*edges[:-1], 2.0])
        interval = np.searchsorted(edges, queries[:, neuron], side="right") - 1
        scores += np.minimum(counts[interval] / filled, 1) / train.shape[1]
    return scores


test_agreement = agreement_test("nac_ue", oracle, {}, {"alpha": 0.3, "bins": 7, "filled": 20}, {"alpha": 100.0})


def test_as_pytorch_ood_with_even_bins(monkeypatch):
    # Theirs cuts [0, 1] into geometric intervals, which paper and authors' code do not; with even ones, which their
    # file also has, the scores agree. It also adds 1e-12 to p before the logarithm, so that the gradient of classes
    # less likely than that is lost: hence a head of small logits.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    detector_class = peer("NACUE")
    module = pytest.importorskip("pytorch_ood.detector.nac")
    monkeypatch.setattr(module, "_bin_indices_geometric", module._bin_indices)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"] / 8, data["bias"] / 8
    model = torch.nn.Sequential(torch.nn.Identity(), head)
    theirs = detector_class(model, [model[0]], m_bins=20, alpha=10.0, o_star=40)
    theirs.fit([data["features"].requires_grad_()])
    expected = -theirs.predict(data["queries"].requires_grad_()).numpy()
    ours = create_detector("nac_ue", bins=20, alpha=10.0, filled=40)
    ours.fit(problem.features, head=(problem.weight / 8, problem.bias / 8))
    scores = ours.score(problem.queries).numpy()
    assert len(np.unique(scores)) > 10
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_scale_of_the_tap_drops_out():
    problem = PROBLEMS[0]
    scores = [
        create_detector("nac_ue")
        .fit(factor * problem.features, head=(problem.weight / factor, problem.bias))
        .score(factor * problem.queries)
        for factor in (1, 1024)
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-9)


def test_coverage_counts_states():
    # Constant gradients of 0 leave every state at 1/2, the interval 1 of 2: covered by 3 of 4 states that fill it.
    detector = create_detector("nac_ue", bins=2, filled=4).fit(np.ones((3, 2)), head=(np.zeros((3, 2)), None))
    assert detector.coverage_.tolist() == [0, 0.75, 0, 0.75]
    assert detector.score([[5.0, -5.0]]).item() == 0.75


@pytest.mark.parametrize("parameters", [{"alpha": 0}, {"bins": 0}, {"filled": 0.5}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'nac_ue': "):
        create_detector("nac_ue", **parameters)
