from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import ood_nc.detection
from ood_nc.detection import (
    DetectorInfo,
    FeatureDetector,
    InputDetector,
    create_detector,
    create_feature_detector,
    detector_class,
    list_detectors,
    register_detector,
)
from ood_nc.detection.registry import DETECTORS
from ood_nc.errors import UserError
from tests.plugins.installed import install

FIRST = {"msp", "max_logit", "energy", "knn", "mahalanobis", "vim", "nci", "etf_cosine", "class_mean_cosine"}


def test_the_table_of_detectors_says_what_they_are() -> None:
    rows = []
    for name in list_detectors():
        cls = detector_class(name)
        needs = ", ".join(sorted(cls.requires)) or "-"
        rows.append([name, cls.kind, needs, f"{cls.info.title} ({cls.info.venue})"])
    table = Path(ood_nc.detection.__file__).with_name("detectors.csv").read_text(encoding="utf-8")
    header, *found = csv.reader(table.splitlines())
    assert (header, found) == (["detector", "reads", "needs", "source"], rows)


class Plugin(FeatureDetector):
    """The first feature."""

    name = "first_feature"
    info = DetectorInfo("First feature", "nowhere", "https://example.org", "features", "real", "none")
    requires = frozenset({"features"})
    needs_fit = False

    def _score(self, queries):
        return queries.features[:, 0].double()


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    list_detectors()
    monkeypatch.setattr(DETECTORS, "_entries", dict(DETECTORS._entries))


def test_names():
    assert set(list_detectors()) >= FIRST
    assert list_detectors("m*") == sorted(name for name in list_detectors() if name.startswith("m"))
    assert list_detectors("no such*") == []


def test_kinds():
    for kind, base in (("feature", FeatureDetector), ("input", InputDetector)):
        assert all(issubclass(detector_class(name), base) for name in list_detectors(kind=kind))
    assert sorted(list_detectors(kind="feature") + list_detectors(kind="input")) == list_detectors()
    assert "odin" in list_detectors("o*", kind="input")
    assert "odin" not in list_detectors("o*", kind="feature")
    with pytest.raises(UserError, match=r"Unknown kind of detector 'inputs'.*Did you mean 'input'"):
        list_detectors(kind="inputs")


def test_create_a_feature_detector():
    assert create_feature_detector("energy", temperature=2.0).get_params() == {"temperature": 2.0}
    with pytest.raises(UserError, match="'odin' reads images through the network, not features"):
        create_feature_detector("odin")


def test_every_file_of_detectors_has_its_test_file():
    files = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "detectors").glob("test_*.py")}
    modules = {name: detector_class(name).__module__.rpartition(".")[2] for name in list_detectors()}
    assert set(modules.values()) == files
    # A file has its detector's name, or the name that its variants share.
    assert all(name.startswith(module) for name, module in modules.items())


def test_create_with_hyperparameters():
    assert create_detector("energy", temperature=2.0).get_params() == {"temperature": 2.0}
    with pytest.raises(UserError, match=r"Unknown detector 'mahalanobi'\. Did you mean 'mahalanobis'\?"):
        create_detector("mahalanobi")
    with pytest.raises(UserError, match=r"'energy' has no hyper-parameter 'temprature'\. Did you mean 'temperature'\?"):
        create_detector("energy", temprature=2.0)


@pytest.mark.parametrize("kind", [None, "feature"])
def test_plugin_through_an_entry_point(tmp_path, monkeypatch, kind):
    points = {"ood_nc.detectors": "first_feature = first_feature_plugin:Plugin"}
    source = f"from {__name__} import Plugin"
    monkeypatch.syspath_prepend(install(tmp_path, "first_feature_plugin", source, points))
    assert "first_feature" in list_detectors(kind=kind)
    assert create_detector("first_feature").score(torch.eye(2)).tolist() == [1, 0]


def test_plugin_that_is_no_detector(tmp_path, monkeypatch):
    points = {"ood_nc.detectors": "path = pathlib:Path"}
    monkeypatch.syspath_prepend(install(tmp_path, "no_detector", "", points))
    with pytest.raises(UserError, match="'path' \\(pathlib:Path\\) is no subclass of FeatureDetector or InputDetector"):
        create_detector("path")


def test_register():
    assert register_detector(Plugin) is Plugin
    assert register_detector(Plugin) is Plugin
    assert isinstance(create_detector("first_feature"), Plugin)
    taken = type("Other", (Plugin,), {})
    with pytest.raises(UserError, match="'first_feature' is taken by"):
        register_detector(taken)
    with pytest.raises(UserError, match="requires unknown inputs: images"):
        register_detector(type("Bad", (Plugin,), {"name": "bad", "requires": frozenset({"images"})}))
    reads_images = {"name": "bad", "requires": frozenset({"features"}), "info": Plugin.info}
    with pytest.raises(UserError, match="requires unknown inputs: features"):
        register_detector(type("Bad", (InputDetector,), reads_images))
    with pytest.raises(UserError, match="has no class attribute 'name'"):
        register_detector(type("Nameless", (FeatureDetector,), {}))
