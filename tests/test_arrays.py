from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.arrays import as_labels, as_matrix, as_tensor
from ood_nc.collapse import ClassStatistics, nc4_ncc, ncc_accuracy
from ood_nc.collapse.intervals import ShardedStatistics
from ood_nc.detection import TapStatistics, create_detector, synthetic_outliers
from ood_nc.errors import UserError
from ood_nc.scores.thresholds import choose_class_thresholds, conformal_p_values
from ood_nc.transfer import few_shot, fit_linear_probe, knn_probe, linear_probe, nearest_mean_probe

NUMPY_DTYPES = [
    np.dtype(kind + str(size)) for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "248")) for size in sizes
]
TORCH_DTYPES = [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.uint16, torch.uint64, torch.int32]
ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
NOT_LABELS = [
    (-1, r"0\.\.\d+, got -1 in entry 7 .* leave out"),
    (-100, "got -100 in entry 7 .* leave out"),
    (255, "got 255 in entry 7 .* leave out"),
    (3_000_000_000, "got 3000000000 in entry 7"),
    (1e20, r"got 1e\+20 in entry 7"),
    (2**64 - 1, "holds 18446744073709551615, which float64 rounds"),
    (1.5, "whole numbers .*, got 1.5 in entry 7"),
    (float("nan"), "whole numbers .*, got nan in entry 7 .* leave out"),
    (float("inf"), "whole numbers .*, got inf in entry 7"),
    (-float("inf"), "whole numbers .*, got -inf in entry 7"),
]


@pytest.mark.parametrize("dtype", [*NUMPY_DTYPES, *TORCH_DTYPES], ids=str)
def test_labels_of_any_dtype(dtype):
    made = torch.tensor([3, 0, 2], dtype=dtype) if isinstance(dtype, torch.dtype) else np.array([3, 0, 2], dtype)
    labels = as_labels(made, 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 0, 2]


def test_labels_that_are_truth_values_or_none():
    assert as_labels([True, False]).tolist() == [1, 0]
    assert as_labels(torch.empty(0)).tolist() == []
    assert as_labels([255, 255]).tolist() == [255, 255]


@pytest.mark.parametrize(
    "labels",
    [
        [3, 255],  # Two predictions of many classes.
        [*range(256)],
        [0, 90, 255],
        [*range(0, 256, 3)],
        [*range(257)],
    ],
)
def test_a_class_255_among_others(labels):
    assert as_labels(labels).tolist() == labels


@pytest.mark.parametrize("others", [[0, 1], [0, 1, 3], [*range(200)]])
def test_an_ignore_value_beside_fewer_classes(others):
    with pytest.raises(UserError, match=rf"in 0\.\.{others[-1]}, got 255 in entry 0 \(2 in all\): leave out"):
        as_labels(np.array([255, *others, 255], dtype=np.uint8))


def test_labels_beyond_the_classes_there_are():
    assert as_labels([0, 1], num_classes=2).tolist() == [0, 1]
    with pytest.raises(UserError, match=r"classes must be in 0\.\.1, got 2 in entry 1 \(1 in all\): number"):
        as_labels([0, 2], name="classes", num_classes=2)


def _sides(labels):
    return {"train_features": ROWS, "train_labels": labels, "test_features": ROWS, "test_labels": [0, 1] * 4}


FUNCTIONS = {
    "class statistics": lambda labels: ClassStatistics(2, 3).update(ROWS, labels),
    "sharded statistics": lambda labels: ShardedStatistics(2, 3).update(ROWS, labels),
    "ncc_accuracy": lambda labels: ncc_accuracy(ClassStatistics(2, 3).update(ROWS, [0, 1] * 4), ROWS, labels),
    "tap statistics": lambda labels: TapStatistics(ROWS, labels),
    "a detector of features": lambda labels: create_detector("mahalanobis").fit(ROWS, labels),
    "a detector of logits": lambda labels: create_detector("openmax").fit(None, labels, logits=ROWS[:, :2]),
    "synthetic outliers": lambda labels: synthetic_outliers(ROWS, labels),
    "class thresholds": lambda labels: choose_class_thresholds(ROWS[:, 0], labels),
    "conformal p-values": lambda labels: conformal_p_values(
        ROWS[:, 0], ROWS[:, 1], classes=labels, held_out_classes=[0, 1] * 4
    ),
    "linear probe": lambda labels: linear_probe(**_sides(labels)),
    "k-NN probe": lambda labels: knn_probe(**_sides(labels)),
    "labels of the test split": lambda labels: knn_probe(
        **{**_sides([0, 1] * 4), "test_labels": labels, "train_labels": [0, 1] * 4}
    ),
    "few shots": lambda labels: few_shot(**_sides(labels)),
    "a linear probe alone": lambda labels: fit_linear_probe(ROWS, labels),
    "nc4_ncc": lambda labels: nc4_ncc(ClassStatistics(2, 3).update(ROWS, [0, 1] * 4), ROWS, labels),
    "nearest-mean probe": lambda labels: nearest_mean_probe(**_sides(labels)),
}


@pytest.mark.parametrize(("value", "message"), NOT_LABELS, ids=[str(value) for value, _ in NOT_LABELS])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_that_takes_labels(function, value, message):
    with pytest.raises(UserError, match=message):
        FUNCTIONS[function]([0, 1, 0, 1, 0, 1, 0, value])


BIG = 2**53


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([1 + 2j]), "dense tensor of real numbers, got torch.complex64"),
        (np.array([1 + 2j]), "dtype complex128"),
        ([1.0, 2j], "dtype complex128"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "masked values"),
        ([np.ma.masked_array([1.0, 2.0], [False, True])], "masked values"),
        (np.array([1, None]), "dtype object"),
        ([1.0, None], "dtype object"),
        (["a", "b"], "dtype <U1"),
        (np.array(["2024-01-01"], "datetime64[D]"), "dtype datetime64"),
        (np.array([(1, 2)], "i4,i4"), "dtype"),
        ([[1.0], [1.0, 2.0]], "array of numbers"),
        (torch.eye(2).to_sparse(), "dense tensor"),
        ([2**70], "dtype object"),
        ([BIG + 1, 0.5], "holds 9007199254740993, which float64 rounds"),
    ],
)
def test_what_no_tensor_holds_exactly_is_refused(values: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        as_tensor(values, "scores")
    assert str(caught.value).startswith("scores ") and "\n" not in str(caught.value)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here")
def test_extended_precision_is_refused() -> None:
    with pytest.raises(UserError, match="up to 64 bits"):
        as_tensor(np.ones(2, np.longdouble))


@pytest.mark.parametrize(
    "values",
    [
        [BIG + 1, BIG + 2],
        [float(BIG), 2 * BIG, 0.5],
        [BIG, np.inf, 0.5],
        np.array([1, 65535], np.uint16),
        np.array([1, BIG + 1], np.uint64),
        np.array([True, False]),
        np.ma.masked_array([1.0, 2.0], [False, False]),
        np.arange(6.0)[::-2],
        np.arange(3.0).astype(">f4"),
    ],
)
def test_values_pass_unchanged(values: object) -> None:
    assert as_tensor(values).tolist() == list(np.asarray(values).tolist())


def test_integer_features_take_the_width_that_keeps_them_apart() -> None:
    assert as_matrix([[2**24, 1]]).dtype == torch.float32
    wide = as_matrix(np.array([[2**24 + 1, 2**24]]))
    assert (wide.dtype, wide.tolist()) == (torch.float64, [[2**24 + 1, 2**24]])
    assert as_matrix(np.array([[40000, 1]], np.uint16)).tolist() == [[40000.0, 1.0]]
    assert as_matrix(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)
    with pytest.raises(UserError, match=r"features holds integers above 2\^53"):
        as_matrix(np.array([[BIG + 1]]))
    assert as_matrix(np.array([[True]])).tolist() == [[1.0]]
    with pytest.raises(UserError, match=r"features holds integers above 2\^63 - 1"):
        as_matrix(np.array([[2**63]], np.uint64))
