from __future__ import annotations

import pytest

from ood_nc.config import DataConfig
from ood_nc.data import list_suites, load_suite
from ood_nc.data.suites import suite_id_data
from ood_nc.errors import UserError

GROUPS = {
    "openood-cifar10": {"near": {"cifar100", "tin"}, "far": {"mnist", "svhn", "texture", "places365"}},
    "openood-cifar100": {"near": {"cifar10", "tin"}, "far": {"mnist", "svhn", "texture", "places365"}},
    "openood-imagenet200": {
        "near": {"ssb_hard", "ninco"},
        "far": {"inaturalist", "textures", "openimage_o"},
        "covariate": {"imagenet_v2", "imagenet_c", "imagenet_r"},
    },
}
GROUPS["openood-imagenet1k"] = GROUPS["openood-imagenet200"]


def test_every_suite_is_a_valid_configuration():
    suites = list_suites()
    assert set(suites) == {"bundled", "imagenet100", *GROUPS}
    for name, description in suites.items():
        assert "\n" not in description and len(description) > 40
        config = DataConfig(**load_suite(name, "/data"), **suite_id_data(name, "/data"))
        assert config.ood
        for entry in config.ood.values():
            assert entry.source.startswith(("/data/", "bundled/"))


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_openood_groups(name):
    found: dict[str, set[str]] = {}
    for key, entry in load_suite(name)["ood"].items():
        found.setdefault(entry["group"], set()).add(key)
    assert found == GROUPS[name]


def test_textures_lie_with_the_small_images():
    source = load_suite("openood-imagenet1k", "/data")["ood"]["textures"]["source"]
    assert source == "/data/benchmark_imglist/imagenet/test_textures.txt::/data/images_classic"


def test_the_papers_eight_sets_serve_detection_and_transfer():
    suite = load_suite("imagenet100")
    assert len(suite["ood"]) == 8
    assert set(suite["ood"]) == set(suite["transfer"])
    for name, entry in suite["ood"].items():
        assert entry["source"] == suite["transfer"][name]["test"], "detection reads the evaluation split"
    assert suite["transfer"]["flowers102"]["test"] == "flowers102::val"


def test_unknown_suite():
    with pytest.raises(UserError, match="Did you mean 'imagenet100'"):
        load_suite("imagenet10")
    with pytest.raises(UserError, match="There are bundled"):
        load_suite("zzz")
