from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from ood_nc.config import DataConfig, PixelConfig
from ood_nc.data import corruptions, load_data, open_dataset
from ood_nc.data.corruptions import CORRUPTIONS, corrupted
from ood_nc.errors import MissingPackageError, UserError
from tests.helpers.pictures import picture, save


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("corrupt_tta", reason="needs the corruptions extra")
    root = tmp_path_factory.mktemp("corruptions")
    for number, name in enumerate(("cat", "dog")):
        save(root / "pets" / name, (picture(10 * number + index, (64, 48)) for index in range(3)))
    save(root / "large/one", [picture(99, (500, 375))])
    return root


def pixels(dataset, index: int = 0) -> np.ndarray:
    return np.asarray(dataset.load(index), dtype=np.float64)


def global_state() -> np.ndarray:
    return np.random.get_state()[1].copy()  # noqa: NPY002 (what the library draws from)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_what_is_random_depends_on_image_and_seed_alone(corruption: str, photographs) -> None:
    dataset = open_dataset(str(photographs / "pets"))
    view = corrupted(dataset, corruption, 3)
    first = pixels(view)
    state = global_state()
    assert first.shape == (48, 64, 3) and not np.array_equal(first, pixels(dataset))
    assert np.array_equal(first, pixels(view)), "again"
    assert np.array_equal(first, pixels(corrupted(dataset.subset([4, 0]), corruption, 3), 1)), "at another place"
    assert np.array_equal(global_state(), state), "the global state is as it was"
    random = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"}
    other = pixels(corrupted(dataset, corruption, 3, seed=1))
    assert np.array_equal(other, first) == (corruption not in random | {"elastic_transform"})


def test_closed_forms(photographs) -> None:
    """Noise of the published deviation, contrast and brightness of the published factor."""
    dataset = open_dataset(str(photographs / "pets"))
    plain = pixels(dataset)
    middle = (plain > 100) & (plain < 150)
    noise = (pixels(corrupted(dataset, "gaussian_noise", 1)) - plain)[middle]
    assert noise.std() / 255 == pytest.approx(0.08, rel=0.05)
    low = pixels(corrupted(dataset, "contrast", 2))
    mean = plain.mean(axis=(0, 1))
    assert low == pytest.approx(mean + 0.3 * (plain - mean), abs=1)
    salted = pixels(corrupted(dataset, "impulse_noise", 5))
    assert np.mean(salted != plain) == pytest.approx(0.27, abs=0.02)


def test_severity_grows(photographs) -> None:
    dataset = open_dataset(str(photographs / "pets"))
    for corruption in ("gaussian_noise", "defocus_blur", "brightness", "jpeg_compression", "contrast"):
        change = [np.abs(pixels(corrupted(dataset, corruption, s)) - pixels(dataset)).mean() for s in range(1, 6)]
        assert change == sorted(change), corruption


def test_large_images_are_brought_to_the_published_size_first(photographs) -> None:
    assert pixels(corrupted(open_dataset(str(photographs / "large")), "brightness", 1)).shape == (224, 224, 3)


def test_as_a_source_with_labels_and_a_fingerprint_of_its_own(photographs) -> None:
    plain = open_dataset("pets", root=photographs)
    view = open_dataset("corrupted/fog-2/pets", root=photographs)
    assert view.class_names == plain.class_names and view.targets.tolist() == plain.targets.tolist()
    assert view.name == "pets (fog 2)"
    others = [open_dataset(f"corrupted/{how}/pets", root=photographs) for how in ("fog-3", "mixed")]
    assert len({one.fingerprint() for one in (plain, view, *others)}) == 4
    assert np.array_equal(pixels(view), pixels(corrupted(plain, "fog", 2)))
    assert len(open_dataset("corrupted/fog-2/pets::cat", root=photographs)) == 3


def test_mixed_draws_another_corruption_for_each_image(photographs, monkeypatch) -> None:
    seen = []
    applied = corruptions._applied
    monkeypatch.setattr(corruptions, "_applied", lambda p, *how: seen.append(how[:2]) or applied(p, *how))
    view = open_dataset("corrupted/mixed/pets", root=photographs)
    for index in range(6):
        view.load(index)
    assert len(set(seen)) >= 5 and {name for name, _ in seen} <= set(CORRUPTIONS)


def test_as_a_covariate_set_of_a_run(photographs) -> None:
    config = DataConfig(
        root=str(photographs),
        train="pets",
        test="pets",
        ood={"fog": {"source": "corrupted/fog-1/pets", "group": "covariate"}},
    )
    assert load_data(config, check_images=False).ood["fog"].name == "pets (fog 1)"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("corrupted/fog-3", "Which images"),
        ("corrupted/fog/pets", "severity of 1 to 5"),
        ("corrupted/fog-6/pets", "severity of 1 to 5"),
        ("corrupted/fog-x/pets", "is no number"),
        ("corrupted/mixed-1/pets", "mixed has none"),
        ("corrupted/frog-3/pets", "Did you mean 'fog'"),
        ("corrupted/fog-3/none", "No data at"),
    ],
)
def test_mistakes_are_one_line(source: str, message: str, photographs) -> None:
    with pytest.raises(UserError, match=message) as raised:
        open_dataset(source, root=photographs)
    assert "\n" not in str(raised.value)


def test_without_the_extra_it_is_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "corrupt_tta", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ood_nc\[corruptions\]'"):
        open_dataset("corrupted/fog-1/bundled/textures")


def test_images_that_are_too_small_are_named(tmp_path) -> None:
    pytest.importorskip("corrupt_tta", reason="needs the corruptions extra")
    save(tmp_path / "dots", [Image.new("RGB", (1, 1))])
    with pytest.raises(UserError, match=r"cannot read 000\.png .*at least 2x2"):
        open_dataset("corrupted/contrast-1/dots", root=tmp_path).load(0)


def test_stored_values_become_pixels_by_the_rules_of_the_run(tmp_path) -> None:
    """Images of 12 bits: corrupted, they were read as if of 16, nearly black beside those that the network learnt."""
    pytest.importorskip("corrupt_tta", reason="needs the corruptions extra")
    values = np.random.default_rng(0).integers(0, 4096, (1, 48, 64)).astype(np.uint16)
    np.save(tmp_path / "stored.npy", values)
    np.save(tmp_path / "eight.npy", np.rint(values * (255 / 4095)).astype(np.uint8))
    stored, eight = (open_dataset(f"corrupted/contrast-2/{tmp_path}/{name}.npy") for name in ("stored", "eight"))
    assert np.array_equal(pixels(stored.with_pixels(PixelConfig(value_range=(0, 4095)))), pixels(eight))
