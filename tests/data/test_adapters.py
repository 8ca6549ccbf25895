from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder

from ood_nc.data import as_dataset, eval_transform, find_overlaps, open_dataset
from ood_nc.errors import UserError

from .conftest import encoded
from .test_hub import write_cifar10

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
NORMALIZE = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.2,) * 3)])


class Items(Dataset):
    """What a user writes: an image in some form, and a label in some form."""

    def __init__(self, form, label=int):
        self.form, self.label = form, label

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        if not 0 <= index < len(PIXELS):
            raise IndexError
        return self.form(PIXELS[index]), self.label(LABELS[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Items(Image.fromarray))


FORMS = {
    "PIL": Image.fromarray,
    "array": np.asarray,
    "uint8 tensor": lambda image: torch.from_numpy(image).movedim(-1, 0),
    "float tensor": transforms.ToTensor(),
    "float64 array": lambda image: image / 255,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor, float])
def test_every_form_of_items_shows_the_same_images(form, label):
    dataset = as_dataset(Items(FORMS[form], label))
    assert dataset.targets.tolist() == LABELS and dataset.targets.dtype == np.int64
    assert all(np.array_equal(np.asarray(dataset.load(index)), PIXELS[index]) for index in range(6))
    assert dataset.num_classes == 3 and dataset.name == "Items"


def test_wrappers_of_torch():
    items = Items(Image.fromarray)
    for source in (items, DataLoader(items, batch_size=4, shuffle=True), list(items), Stream(), DataLoader(Stream())):
        dataset = as_dataset(source)
        assert np.array_equal(np.stack([np.asarray(dataset.load(index)) for index in range(6)]), PIXELS)
        assert dataset.targets.tolist() == LABELS
    for part in (Subset(items, [4, 0]), DataLoader(Subset(items, [4, 0]), shuffle=True)):
        assert np.array_equal(np.asarray(as_dataset(part).load(0)), PIXELS[4])
    drawn = as_dataset(DataLoader(items, sampler=SubsetRandomSampler([5, 2])))
    assert drawn.ids == ("000002", "000005") and drawn.targets.tolist() == [2, 2]
    assert as_dataset(ConcatDataset([items, items])).targets.tolist() == LABELS * 2
    tensors = TensorDataset(torch.from_numpy(PIXELS).movedim(-1, 1), torch.tensor(LABELS))
    assert as_dataset(DataLoader(tensors, batch_size=2)).fingerprint() == as_dataset(items).fingerprint()


def test_reading_a_loader_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    as_dataset(DataLoader(Items(Image.fromarray), shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_names_and_data_sets_are_what_they_are():
    dataset = open_dataset("bundled/digits-near")
    assert as_dataset(dataset) is dataset
    assert as_dataset("bundled/digits-near").fingerprint() == dataset.fingerprint()


def test_an_image_folder_is_its_files_whatever_its_transform(folder):
    root = folder(
        {f"{name}/{index}.png": encoded(10 * index + len(name)) for name in ("cat", "horse") for index in range(3)}
    )
    ours = open_dataset(str(root))
    for transform in (None, NORMALIZE):
        theirs = as_dataset(ImageFolder(str(root), transform))
        assert theirs.ids == ours.ids and theirs.class_names == ours.class_names
        assert theirs.fingerprint() == ours.fingerprint()
    (found,) = find_overlaps({"a": ours, "b": theirs}, {"a": "fit", "b": "test"})
    assert len(found.ids) == 6
    turned = as_dataset(ImageFolder(str(root), target_transform=lambda label: 1 - label))
    assert turned.targets.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_torchvision_set_is_read_without_its_transform(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    write_cifar10(tmp_path)
    own = CIFAR10(str(tmp_path), transform=NORMALIZE)
    dataset = as_dataset(own)
    assert np.array_equal(np.asarray(dataset.load(1)), own.data[1])
    assert dataset.class_names[:2] == ("airplane", "automobile")
    assert own.transform is NORMALIZE, "the user's own object is as it was"
    by_name = open_dataset("torchvision/CIFAR10::train", root=tmp_path)
    (found,) = find_overlaps({"a": by_name, "b": dataset}, {"a": "fit", "b": "test"})
    assert len(found.ids) == len(by_name) == 10


def test_a_list_of_labels_that_says_otherwise_is_not_believed():
    items = Items(Image.fromarray, lambda label: label + 1)
    items.targets = LABELS
    assert as_dataset(items).targets.tolist() == [label + 1 for label in LABELS]


class Relabelled(ImageFolder):
    """Labels of its own, as in studies of noise, beside the list that it inherits; first, middle and last agree."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, 1 - label if index == 2 else label


def test_a_folder_with_labels_or_a_loader_of_its_own_is_its_items(folder):
    root = folder({f"{name}/{index}.png": encoded(index) for name in ("cat", "dog") for index in range(4)})
    noisy = as_dataset(Relabelled(str(root)))
    assert noisy.targets.tolist() == [0, 0, 1, 0, 1, 1, 1, 1] and noisy.class_names == ("cat", "dog")
    black = as_dataset(ImageFolder(str(root), loader=lambda path: Image.new("RGB", (3, 2))))
    assert black.load(1).size == (3, 2) and black.targets.tolist() == [0] * 4 + [1] * 4


def test_classes_of_several_names_are_text(folder):
    source = ImageFolder(str(folder({"n1/0.png": encoded(1), "n2/0.png": encoded(2)})))
    source.classes = [("tench", "Tinca tinca"), ("goldfish",)]  # as torchvision's ImageNet has them
    assert as_dataset(source).class_names == ("('tench', 'Tinca tinca')", "('goldfish',)")


def test_the_model_sees_what_a_folder_would_show(folder):
    root = folder({f"a/{index}.png": encoded(index) for index in range(3)})
    files = open_dataset(str(root))
    transform = eval_transform({"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.2,) * 3})
    items = [(transforms.ToTensor()(files.load(index)), 0) for index in range(3)]
    for index in range(3):
        expected = files.with_transform(transform)[index][0]
        assert torch.equal(as_dataset(items).with_transform(transform)[index][0], expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Items(NORMALIZE),
            r"Items: its values go from .* not 0 to 1; leave Normalize to the model's own preprocessing",
        ),
        ([("a.png", 0)], "list: its items begin with str"),
        ([torch.zeros(3, 8, 8)] * 2, r"items must be \(image, label\)"),
        ([(PIXELS[0],)], r"items must be \(image, label\)"),
        ([(PIXELS[0], "cat")], r"could not convert string .*items must be \(image, label\)"),
        ([(PIXELS[0], 1.5)], "labels of list must be whole numbers"),
        ([(PIXELS[0], -100)], "got -100 in entry 0 .*leave out"),
        ([(PIXELS[0], 3_000_000_000)], "got 3e.09 in entry 0"),
        ([], "list is empty"),
        (5, "int is no data set"),
        ([{"image": 1, "label": 2}], r"items must be \(image, label\)"),
    ],
)
def test_mistakes_are_one_line(source, message):
    with pytest.raises(UserError, match=message) as error:
        as_dataset(source)
    assert "\n" not in str(error.value)
