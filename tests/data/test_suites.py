from __future__ import annotations

import pytest

from ood_nc.config import DataConfig
from ood_nc.data import list_suites, load_suite
from ood_nc.data.suites import suite_id_data, suite_known
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


def test_what_is_known_of_each_source():
    for name in list_suites():
        sources = {
            *suite_id_data(name).values(),
            *(entry["source"] for entry in load_suite(name)["ood"].values()),
            *(source for task in load_suite(name)["transfer"].values() for source in task.values()),
        }
        known = suite_known(name)
        assert set(known) == sources
        if name != "bundled":
            assert all("get" in one for one in known.values()), "where to get each set"
    cifar = suite_known("openood-cifar10")
    assert {entry["images"] for entry in cifar.values()} == {50000, 1000, 9000, 7793, 70000, 26032, 5640, 35195}


SUITE = """
description: mine
id: {train: birds/train, test: birds/test}
ood: {boats: {source: boats, group: near}, planes: planes}
known: {boats: {images: 3}}
"""


def test_a_suite_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    assert load_suite(str(path), "/data") == {
        "ood": {
            "boats": {"source": "/data/boats", "group": "near"},
            "planes": {"source": "/data/planes", "group": "far"},
        },
        "transfer": {},
    }
    assert suite_id_data(str(path), "/data") == {"train": "/data/birds/train", "test": "/data/birds/test"}
    assert suite_known(str(path))["boats"] == {"images": 3} and suite_known(str(path))["planes"] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ood: {}", "names no ID data"),
        ("- a", "names no ID data"),
        ("id: {train: a}\nood: {x: {source: y, group: nearby}}", "data.ood.x.group"),
        ("id: {train: a, trian: b}", "'id.trian'"),
        ("id: {train: a}\nodd: {}", "Unknown key 'odd'.* Did you mean 'ood'"),
        ("id: {train: a}\nknown: []", "known must hold"),
        ("id: {train: [", "is not YAML, line 1"),
    ],
)
def test_a_file_that_is_no_suite_is_one_line(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_suite(str(path))
    assert "mine.yaml" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"Cannot read the suite .*none\.yaml"):
        load_suite(str(tmp_path / "none.yaml"))
