"""Makes the data sets of docs/claim.md from public files: every image at one size and treated alike.

Neither size nor resampling, colour or compression shall tell a set apart.

    python scripts/claim_data.py --data-dir DATA --output claim-data

DATA holds mnist.npz, fashion_mnist.npz, cifar10_jpg.tar.xz, tinyimagenet_dev100.tar.xz, flowers5.tar,
dtd5_128px.tar and images_background_small1.zip. Written are two folders of .npz files, 32 pixels each: ``fashion``,
where everything is grey, light on dark, stretched to the full range, reduced to 28 pixels and enlarged to 32; and
``cifar``, where everything is in colour, reduced to 32 pixels and passed through JPEG with the tables of the CIFAR
files. ``photographs`` and ``tiny-validation`` are for choices, and are in no result.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ood_nc.data import ImageDataset, open_dataset

SIZE, GREY_SIZE, FOLDS = 32, 28, 5
TRAIN, VALIDATION, TEST = {"fashion": 800, "cifar": 1000}, 200, 400
OOD_LIMIT = 2000

# WordNet ids whose subject is a category of CIFAR-10 (airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
# truck), or looks so much like one that a person might say so.
CIFAR_LIKE = {
    "n01641577": "bullfrog",
    "n01644900": "tailed frog",
    "n01855672": "goose",
    "n02002724": "black stork",
    "n02056570": "king penguin",
    "n02058221": "albatross",
    "n02085620": "Chihuahua",
    "n02094433": "Yorkshire terrier",
    "n02099601": "golden retriever",
    "n02099712": "Labrador retriever",
    "n02106662": "German shepherd",
    "n02113799": "standard poodle",
    "n02123045": "tabby",
    "n02123394": "Persian cat",
    "n02124075": "Egyptian cat",
    "n02125311": "cougar",
    "n02129165": "lion",
    "n02423022": "gazelle",
    "n02814533": "beach wagon",
    "n02917067": "bullet train",
    "n02930766": "cab",
    "n03100240": "convertible",
    "n03126707": "crane",
    "n03393912": "freight car",
    "n03447447": "gondola",
    "n03662601": "lifeboat",
    "n03670208": "limousine",
    "n03796401": "moving van",
    "n03977966": "police van",
    "n04146614": "school bus",
    "n04285008": "sports car",
    "n04465501": "tractor",
    "n04487081": "trolleybus",
}

Treatment = Callable[[Image.Image], np.ndarray]


def grey(invert: bool = False) -> Treatment:
    """Square, grey, the full range of brightness, 28 pixels, then 32."""

    def treat(image: Image.Image) -> np.ndarray:
        image = square(image).convert("L")
        image = ImageOps.invert(image) if invert else image
        image = ImageOps.autocontrast(image.resize((GREY_SIZE, GREY_SIZE), Image.Resampling.LANCZOS, reducing_gap=None))
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    return treat


def colour(tables: dict[int, list[int]] | None) -> Treatment:
    """Square, 32 pixels, then JPEG with these tables; without tables the image is taken as it is."""

    def treat(image: Image.Image) -> np.ndarray:
        if tables is None:
            return np.asarray(image)
        small, file = square(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS), io.BytesIO()
        small.save(file, "JPEG", qtables=tables, subsampling="4:2:0")
        return np.asarray(Image.open(file).convert("RGB"))

    return treat


def square(image: Image.Image) -> Image.Image:
    """The centre square."""
    side = min(image.size)
    return ImageOps.fit(image, (side, side), Image.Resampling.NEAREST)


def split_by_class(targets: np.ndarray, counts: list[int], seed: int = 0) -> list[np.ndarray]:
    """Disjoint sets of rows, so many of each class."""
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in counts]
    for label in np.unique(targets):
        rows, start = generator.permutation(np.flatnonzero(targets == label)), 0
        for part, count in zip(parts, counts, strict=True):
            part += rows[start : start + count].tolist()
            start += count
    return [np.sort(part) for part in parts]


def sample(dataset: ImageDataset, limit: int, seed: int = 0) -> ImageDataset:
    """At most ``limit`` images, drawn evenly."""
    rows = np.random.default_rng(seed).permutation(len(dataset))[:limit]
    return dataset.subset(np.sort(rows))


def arrays(dataset: ImageDataset, treat: Treatment, split: str = "") -> dict[str, np.ndarray]:
    """The images and labels of a set under the keys of an .npz file."""
    end = f"_{split}" if split else ""
    images = np.stack([treat(dataset.load(row)) for row in range(len(dataset))])
    return {f"x{end}": images, f"y{end}": dataset.targets}


def folds(whole: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """The set once more as ``FOLDS`` pairs of training and test part, stratified: every image is tested once."""
    generator, place = np.random.default_rng(seed), np.empty(len(whole["y"]), dtype=int)
    for label in np.unique(whole["y"]):
        rows = generator.permutation(np.flatnonzero(whole["y"] == label))
        place[rows] = np.arange(len(rows)) % FOLDS
    found = dict(whole)
    for fold in range(FOLDS):
        for part, inside in (("train", place != fold), ("test", place == fold)):
            found |= {f"{key}_fold{fold + 1}{part}": whole[key][inside] for key in "xy"}
    return found


def make_fashion(root: Path, output: Path) -> None:
    """Fashion-MNIST as ID, and what it is compared with, in grey."""
    save(output / "fashion.npz", splits(root, "fashion_mnist.npz::train", "fashion_mnist.npz::test", "fashion", grey()))
    train = open_dataset("mnist.npz::train", root=root, limit=500)
    test = sample(open_dataset("mnist.npz::test", root=root), OOD_LIMIT)
    save(output / "mnist.npz", arrays(train, grey(), "train") | arrays(test, grey(), "test"))
    save(output / "characters.npz", arrays(characters(root), grey(invert=True)))
    save(output / "flowers.npz", arrays(sample(open_dataset("flowers5.tar", root=root), OOD_LIMIT), grey()))
    save(output / "textures.npz", folds(arrays(open_dataset("dtd5_128px.tar", root=root), grey())))
    photographs = open_dataset("tinyimagenet_dev100.tar.xz::val", root=root, limit=20)
    save(output / "photographs.npz", arrays(photographs, grey()))


def make_cifar(root: Path, output: Path) -> None:
    """CIFAR-10 as ID, and what it is compared with, in colour."""
    source = "cifar10_jpg.tar.xz"
    save(output / "cifar.npz", splits(root, f"{source}::train", f"{source}::test", "cifar", colour(None)))
    first = open_dataset(f"{source}::test", root=root, limit=1)
    treat = colour(Image.open(io.BytesIO(first.content(0))).quantization)
    save(output / "characters.npz", arrays(characters(root), treat))
    save(output / "flowers.npz", arrays(sample(open_dataset("flowers5.tar", root=root), OOD_LIMIT), treat))
    save(output / "textures.npz", folds(arrays(open_dataset("dtd5_128px.tar", root=root), treat)))
    archive = "tinyimagenet_dev100.tar.xz"
    train, test = open_dataset(f"{archive}::train", root=root, limit=100), open_dataset(f"{archive}::val", root=root)
    assert train.class_names is not None and train.class_names == test.class_names
    kept = [index for index, name in enumerate(train.class_names) if name not in CIFAR_LIKE]
    halves = {"tiny": kept[::2], "tiny-validation": kept[1::2]}
    for name, classes in halves.items():
        parts = [(part, dataset) for part, dataset in (("train", train), ("test", test))]
        found = {}
        for part, dataset in parts:
            inside = dataset.subset(np.flatnonzero(np.isin(dataset.targets, classes)))
            inside.targets = np.searchsorted(classes, inside.targets)
            found |= arrays(inside, treat, part)
        save(output / f"{name}.npz", found)


def characters(root: Path) -> ImageDataset:
    """Handwritten characters, one class a character of an alphabet."""
    whole = open_dataset("images_background_small1.zip", root=root)
    names = [name.rpartition("/")[0] for name in whole.ids]
    classes = sorted(set(names))
    whole.targets = np.array([classes.index(name) for name in names])
    whole.class_names = tuple(classes)
    return whole


def splits(root: Path, train: str, test: str, kind: str, treat: Treatment) -> dict[str, np.ndarray]:
    """Training, validation and test part of the ID data; validation comes from the training file."""
    source, held_out = open_dataset(train, root=root), open_dataset(test, root=root)
    fitted, chosen = split_by_class(source.targets, [TRAIN[kind], VALIDATION])
    (tested,) = split_by_class(held_out.targets, [TEST])
    found = arrays(source.subset(fitted), treat, "train") | arrays(source.subset(chosen), treat, "val")
    return found | arrays(held_out.subset(tested), treat, "test")


def save(path: Path, content: dict[str, np.ndarray]) -> None:
    """Write one file and say what is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)
    print(json.dumps({"file": str(path), **{key: list(value.shape) for key, value in content.items()}}), flush=True)


def main() -> None:
    """Make both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the public files")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--only", choices=("fashion", "cifar"), help="one of the two")
    arguments = parser.parse_args()
    for name, make in (("fashion", make_fashion), ("cifar", make_cifar)):
        if arguments.only in (None, name):
            make(arguments.data_dir, arguments.output / name)


if __name__ == "__main__":
    main()
