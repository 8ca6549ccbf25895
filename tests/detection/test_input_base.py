from __future__ import annotations

import pickle

import pytest
import torch
from sklearn.base import clone
from torch.utils.data import DataLoader, TensorDataset

from ood_nc.detection import MissingInputError, Network, create_detector
from ood_nc.errors import UserError
from tests.detection.images import residual, tiny

PROBLEM = tiny()


class Recorded(type(create_detector("odin"))):
    """Keeps what fit is given."""

    needs_fit = True
    requires = frozenset({"network", "labels"})

    def _fit(self, network, batches):
        self.passes_ = [[(images.shape[0], labels.tolist()) for images, labels in batches] for _ in range(2)]
        self.layers_ = ("stage2",)


def test_batches_are_read_as_often_as_wanted():
    loader = DataLoader(TensorDataset(PROBLEM.images, PROBLEM.labels), batch_size=40)
    detector = Recorded().fit(PROBLEM.network, loader)
    expected = [(len(part), part.tolist()) for part in PROBLEM.labels.split(40)]
    assert detector.passes_ == [expected, expected]


def test_images_alone_where_no_labels_are_needed():
    expected = create_detector("adascale").fit(PROBLEM.network, PROBLEM.batches()).score(PROBLEM.queries)
    parts = PROBLEM.images.split(10)
    for batches in (parts, [[part] for part in parts], [part.numpy() for part in parts]):
        assert torch.equal(create_detector("adascale").fit(PROBLEM.network, batches).score(PROBLEM.queries), expected)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([]), "an iterator is read only once"),
        ((pair for pair in PROBLEM.batches()), "an iterator is read only once"),
        ([], "no train samples"),
        ([(PROBLEM.images[:0], PROBLEM.labels[:0])], "no train samples"),
        ([(PROBLEM.images[:4], PROBLEM.labels[:3])], "labels has 3 entries for 4 samples"),
        ([(PROBLEM.images[:2], torch.tensor([0, -1]))], "got -1 in entry 1"),
        ([PROBLEM.images], "lacks labels in fit"),
        ([(PROBLEM.images, None)], "lacks labels in fit"),
        ([[PROBLEM.images]], "lacks labels in fit"),
        ([{"image": PROBLEM.images, "label": PROBLEM.labels}], r"a pair \(images, labels\), got dict"),
        ([(PROBLEM.images, PROBLEM.labels, PROBLEM.labels)], r"a pair \(images, labels\), got tuple"),
        (None, "lacks batches in fit"),
    ],
)
def test_batches_that_do_not_fit(batches, message):
    detector = Recorded()
    with pytest.raises(UserError, match=message):
        detector.fit(PROBLEM.network, batches)
    assert not detector.is_fitted


def test_a_failed_fit_forgets_the_network_too():
    detector = Recorded().fit(PROBLEM.network, PROBLEM.batches())
    with pytest.raises(UserError):
        detector.fit(PROBLEM.network, [])
    assert not detector.is_fitted
    with pytest.raises(MissingInputError):
        _ = detector.network


def test_attach_checks_the_layers_of_fit():
    detector = Recorded().fit(PROBLEM.network, PROBLEM.batches())
    loaded = Recorded().load_state_dict(detector.state_dict())
    with pytest.raises(UserError, match="no layer 'stage2'"):
        loaded.attach(residual().network)
    adapter = Network(PROBLEM.network)
    assert loaded.attach(adapter).network is adapter


def test_nothing_learnt_needs_the_network_alone():
    detector = create_detector("odin")
    assert detector.is_fitted
    with pytest.raises(MissingInputError, match="'odin' lacks network in score; it requires network"):
        detector.score(PROBLEM.queries)
    expected = detector.fit(PROBLEM.network).score(PROBLEM.queries)
    assert torch.equal(create_detector("odin").attach(PROBLEM.network).score(PROBLEM.queries), expected)
    assert detector.state_dict()["fitted"] == {}


def test_copies_leave_the_network_behind():
    detector = create_detector("odin", epsilon=0.01).fit(PROBLEM.network)
    for copied in (clone(detector), pickle.loads(pickle.dumps(detector))):
        assert copied.get_params() == detector.get_params()
        with pytest.raises(MissingInputError):
            copied.score(PROBLEM.queries)


def test_images_of_another_dtype_follow_the_network():
    detector = create_detector("odin").fit(PROBLEM.network)
    narrow = PROBLEM.queries.float()
    assert torch.equal(detector.score(narrow), detector.score(narrow.double()))
