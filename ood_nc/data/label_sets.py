"""Images with any number of labels: composed of single-label images, listed in a table, or house numbers."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ood_nc.config import DataConfig, MultilabelConfig
from ood_nc.data.dataset import ImageDataset, align_classes, positions
from ood_nc.data.house_numbers import read_house_numbers
from ood_nc.data.label_tables import is_table, read_rows
from ood_nc.data.layout import NoImagesError
from ood_nc.data.run_data import open_configured, with_suite, without_broken
from ood_nc.data.splits import limit_per_class, limit_total, stratified_split
from ood_nc.data.stores import ArrayStore, FileStore
from ood_nc.errors import UserError
from ood_nc.files import expanded
from ood_nc.processes import is_main_process

logger = logging.getLogger(__name__)


class LabelSetDataset(ImageDataset):
    """Images whose items are (image, label set): K numbers, 1 where the image has the label, else 0.

    Attributes:
        label_sets: (N, K), uint8.
        targets: which of the different label sets each image has, so that splits keep their shares.
        class_names: of the K labels.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> digits = compose(open_dataset("bundled/digits-near"), {2: (3,)}, place="corners", seed=0, name="pairs")
        >>> digits.class_names, digits.label_sets.tolist(), digits[0][1]
        (('5', '6'), [[1, 1], [1, 1], [1, 1]], tensor([1., 1.]))
    """

    label_sets: np.ndarray

    def __getitem__(self, index: int) -> tuple[object, ...]:
        """(image, label set (K,)), or with the index behind them."""
        image, _, *rest = super().__getitem__(index)
        return (image, torch.from_numpy(self.label_sets[index].astype(np.float32)), *rest)

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> LabelSetDataset:
        """A view of these samples, in this order; of a mask (N,) of truths, those that it marks."""
        view = super().subset(indices, name)
        assert isinstance(view, LabelSetDataset)
        view.label_sets = self.label_sets[positions(indices, len(self), self.name)]
        return view

    def fingerprint(self) -> str:
        """As of any data set, the label sets included."""
        sets = hashlib.blake2b(self.label_sets.tobytes(), digest_size=16).hexdigest()
        return hashlib.blake2b((super().fingerprint() + sets).encode(), digest_size=16).hexdigest()


def compose(
    dataset: ImageDataset, counts: Mapping[int, Sequence[int]], *, place: str, seed: int, name: str
) -> LabelSetDataset:
    """Images of one to three labels, made of images of one (Li et al., ICML 2024).

    ``corners`` (their MLab-MNIST): each digit is put into a corner of a canvas of twice the side, those of one canvas
    into different ones (two into opposite ones), rolled on each axis by 0 to 6 pixels, and joined by the
    elementwise maximum. ``shift`` (their MLab-CIFAR): each image is padded by k in [0, 8) pixels in front of each
    axis and by the side less k behind it, and joined likewise; canvas of twice the side.

    Args:
        dataset: images of one label, all of one size.
        counts: how many images of each label set, by the number of labels; several numbers are given out to the sets
            in turn (imbalance: ``{2: (500, 50, 5)}``). Parts are drawn without replacement inside a label while there
            are enough.
        place: ``corners`` or ``shift``.
        seed: of everything random.
        name: of the result.

    Raises:
        UserError: another place, more than three labels, images of different sizes, or a label without an image.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> digits = open_dataset("bundled/digits-id::train")
        >>> made = compose(digits, {1: (2,), 2: (1,)}, place="corners", seed=0, name="composed")
        >>> len(made), made.ids[0], made.ids[-1], made.load(0).size  # 5 labels twice, and 10 pairs
        (20, '0/00000', '3+4/00000', (16, 16))
    """
    places = {"corners": _corners, "shift": _shifted}
    if place not in places:
        raise UserError(f"multilabel.place must be corners or shift, got {place!r}.")
    if any(not 1 <= m <= 3 for m in counts):
        raise UserError(f"{name}: label sets of {max(counts)} labels cannot be composed, only those of 1 to 3.")
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    rng = np.random.default_rng([seed, 1])
    draw = _Drawer(dataset, names, rng)
    images, sets, ids = [], [], []
    for m, numbers in sorted(counts.items()):
        for number, chosen in enumerate(itertools.combinations(range(len(names)), m)):
            row = np.zeros(len(names), dtype=np.uint8)
            row[list(chosen)] = 1
            for index in range(numbers[number % len(numbers)]):
                images.append(places[place]([draw(label) for label in chosen], rng))
                sets.append(row)
                ids.append(f"{'+'.join(names[label] for label in chosen)}/{index:05d}")
    if not images:
        raise UserError(f"{name}: no image to compose; multilabel.counts are all 0.")
    return _as_dataset(ArrayStore(np.stack(images)), np.stack(sets), ids, names, name)


def read_table(path: Path, *, label_names: Sequence[str] | None = None) -> LabelSetDataset:
    """A CSV or Parquet file with a column ``path`` (relative to it) and a column ``labels`` ("cat|dog", or a list).

    Args:
        path: of the file.
        label_names: the labels and their order, as another table has them; sorted names of this one when not given.

    Raises:
        UserError: as of `read_rows`, or a label that is not known.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "list.csv").write_text("path,labels\\na.png,cat|dog\\nb.png,dog\\n")
        ...     dataset = read_table(Path(folder, "list.csv"))
        >>> dataset.class_names, dataset.label_sets.tolist()
        (('cat', 'dog'), [[1, 1], [0, 1]])
    """
    files, given = read_rows(path)
    names = tuple(label_names or sorted({label for labels in given for label in labels}))
    position = {label: number for number, label in enumerate(names)}
    unknown = sorted({label for labels in given for label in labels} - set(names))
    if unknown:
        raise UserError(f"{path} has the label {unknown[0]!r}, which the training images do not have.")
    sets = np.zeros((len(files), len(names)), dtype=np.uint8)
    for row, labels in zip(sets, given, strict=True):
        row[[position[label] for label in labels]] = 1
    return _as_dataset(FileStore(path.parent, files), sets, files, names, str(path))


def house_numbers(path: Path, counts: Mapping[int, Sequence[int]]) -> LabelSetDataset:
    """The images of SVHN's full numbers whose digits are among 1 to 9; which those are is an image's label set.

    Args:
        path: of ``digitStruct.mat``, beside its images.
        counts: at most how many images of each label set, by the number of labels, as for `compose`; sets of another
            number of labels are left out. The first images of the file are taken.

    Raises:
        UserError: as of `read_house_numbers`, or no image is left.
    """
    left = {
        chosen: numbers[place % len(numbers)]
        for m, numbers in counts.items()
        for place, chosen in enumerate(itertools.combinations(range(1, 10), m))
    }
    files, sets = [], []
    for file, digits in read_house_numbers(path):
        chosen = tuple(sorted(set(digits)))
        if left.get(chosen, 0) > 0:
            left[chosen] -= 1
            files.append(file)
            sets.append([digit in digits for digit in range(1, 10)])
    if not files:
        raise UserError(f"{path}: no image has a label set that multilabel.counts name.")
    return _as_dataset(
        FileStore(path.parent, files), np.array(sets, dtype=np.uint8), files, tuple("123456789"), str(path)
    )


def _as_dataset(
    store: ArrayStore | FileStore, sets: np.ndarray, ids: Sequence[str], names: Sequence[str], name: str
) -> LabelSetDataset:
    _, groups = np.unique(sets, axis=0, return_inverse=True)
    dataset = LabelSetDataset(store, name=name, ids=ids, targets=groups.reshape(-1), class_names=names)
    dataset.label_sets = sets
    return dataset


@dataclass
class LabelSetInputs:
    """The sets of a run on label sets; the test set is there where the configuration names one.

    Attributes:
        ood: OOD sets that hold images; those that cannot be read are found where they are measured.
        groups: near, far or covariate of each OOD set, those without images included.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> pairs = compose(open_dataset("bundled/digits-near"), {2: (9,)}, place="shift", seed=0, name="pairs")
        >>> parts = {"id_train": pairs.subset(range(6)), "id_val": pairs.subset(range(6, 9)), "id_test": None}
        >>> LabelSetInputs(**parts, ood={}, groups={}).ood
        {}
    """

    id_train: LabelSetDataset
    id_val: LabelSetDataset
    id_test: LabelSetDataset | None
    ood: dict[str, ImageDataset]
    groups: dict[str, str]


def load_label_sets(config: DataConfig, settings: MultilabelConfig, *, seed: int, workers: int = 0) -> LabelSetInputs:
    """Open or compose the sets of a run.

    Composed images are the same whatever the seed of the run, which chooses the validation split; train and test are
    composed of the images of ``data.train`` and of ``data.test``. Where a label has fewer images than its sets need,
    parts stand in several images, also of train and validation: then the guarantee of thresholds does not hold. Images
    that are not composed are decoded first, by so many threads as there are ``workers``. ``data.limit`` is of the
    parts, and of the images of each label set of a table that is trained on.

    Raises:
        UserError: a source cannot be opened, cannot be composed, has a broken image, or a label that ``data.train`` has
            not.

    Example:
        >>> config = DataConfig(train="bundled/digits-id::train", test="bundled/digits-id::test")
        >>> settings = MultilabelConfig(counts={1: [20]}, test_counts={1: [3]})
        >>> inputs = load_label_sets(config, settings, seed=0)
        >>> len(inputs.id_train) + len(inputs.id_val), len(inputs.id_test)
        (100, 15)
    """

    def readable(dataset: LabelSetDataset) -> LabelSetDataset:
        """Its images that can be read."""
        notes: list[str] = []
        found = without_broken(dataset.with_pixels(config.pixels), config, notes, workers=workers)
        for note in notes if is_main_process() else ():
            logger.warning("%s", note)
        assert isinstance(found, LabelSetDataset)
        return found

    def opened(source: str, counts: Mapping[int, Sequence[int]], names: Sequence[str] | None) -> LabelSetDataset:
        """A source as label sets: of a table or of house numbers as they are, of other images composed."""
        path = expanded(config.root or "") / expanded(source)
        if is_table(path):
            table = readable(read_table(path, label_names=names))
            return _limited(table, limit_per_class, config.limit if names is None else None)
        if path.suffix.lower() == ".mat":
            return readable(house_numbers(path, counts))
        dataset = open_configured(config, source, limit=config.limit)
        dataset = dataset if names is None else align_classes(dataset, names)
        return compose(dataset, counts, place=settings.place, seed=0, name=source)

    train = opened(config.train, settings.counts, None)
    assert train.class_names is not None
    test = None if config.test is None else opened(config.test, settings.test_counts, train.class_names)
    if config.val is not None:
        val = opened(config.val, settings.test_counts, train.class_names)
    else:
        rows = stratified_split(train.targets, config.val_fraction, seed)
        train, val = train.subset(rows[0]), train.subset(rows[1], name=f"{train.name}::@val")
    val = _limited(val, limit_total, config.eval_limit)
    test = None if test is None else _limited(test, limit_total, config.eval_limit)
    entries, _ = with_suite(config)
    ood = {}
    for name, entry in entries.items():
        with suppress(NoImagesError):  # undefined, as in every evaluation
            ood[name] = open_configured(config, entry.source, most=config.eval_limit)
    return LabelSetInputs(train, val, test, ood, {name: entry.group for name, entry in entries.items()})


def _limited(
    dataset: ImageDataset, limit: Callable[[ImageDataset, int], ImageDataset], most: int | None
) -> LabelSetDataset:
    view = dataset if most is None else limit(dataset, most)
    assert isinstance(view, LabelSetDataset)
    return view


class _Drawer:
    """Draws images of a label in a random order, and begins again where they are used up."""

    def __init__(self, dataset: ImageDataset, names: Sequence[str], rng: np.random.Generator) -> None:
        self._dataset, self._rng = dataset, rng
        self._members = [np.flatnonzero(dataset.targets == label) for label in range(len(names))]
        self._left: list[list[int]] = [[] for _ in names]
        for name, members in zip(names, self._members, strict=True):
            if not len(members):
                raise UserError(f"{dataset.name}: label {name} has no image to compose with.")

    def __call__(self, label: int) -> np.ndarray:
        if not self._left[label]:
            self._left[label] = self._rng.permutation(self._members[label]).tolist()
        return np.asarray(self._dataset.load(self._left[label].pop()))


def _corners(parts: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    first = int(rng.integers(4))
    corners = [first, 3 - first, first ^ 1]  # opposite, then beside
    canvases = []
    for part, corner in zip(parts, corners, strict=False):
        height, width = part.shape[:2]
        canvas = _on_canvas(part, (corner >> 1) * height, (corner & 1) * width)
        canvases.append(np.roll(canvas, tuple(rng.integers(0, 7, size=2)), axis=(0, 1)))
    return _joined(canvases)


def _shifted(parts: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    starts = [rng.integers(0, min(8, *part.shape[:2]), size=2) for part in parts]
    return _joined([_on_canvas(part, *start) for part, start in zip(parts, starts, strict=True)])


def _on_canvas(part: np.ndarray, top: int, left: int) -> np.ndarray:
    """The part on a black canvas of twice its sides."""
    height, width = part.shape[:2]
    canvas = np.zeros((2 * height, 2 * width, *part.shape[2:]), dtype=part.dtype)
    canvas[top : top + height, left : left + width] = part
    return canvas


def _joined(canvases: Sequence[np.ndarray]) -> np.ndarray:
    try:
        joined: np.ndarray = np.maximum.reduce(canvases)
    except ValueError:
        shapes = sorted({str(canvas.shape) for canvas in canvases})
        raise UserError(f"Images of different sizes cannot be composed: canvases {', '.join(shapes)}.") from None
    return joined
