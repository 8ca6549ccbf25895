from __future__ import annotations

import builtins
import copy
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_nc.config import ModelConfig, PixelConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, build_model


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    model = ControlledModel(
        "resnet10t", 3, taps=("layer*", "encoder", "projector"), img_size=32, backbone_options={"stem_width": 16}
    )
    model.class_names = ("a", "b", "c")
    model.preprocessing["pixels"] = PixelConfig(value_range=(0, 4095)).model_dump(mode="json")
    return model.spec()


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every file that is opened and every address that is looked up."""
    seen: list[str] = []

    def watch(place: Any, name: str) -> None:
        original = getattr(place, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.append(f"{name} {arguments[:1]}")
            return original(*arguments, **options)

        monkeypatch.setattr(place, name, watched)

    for place, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (os, "listdir"),
        (os, "scandir"),
        (os, "makedirs"),
        (socket, "socket"),
        (socket, "getaddrinfo"),
        (socket, "create_connection"),
        (torch, "load"),
        (torch.hub, "load_state_dict_from_url"),
    ):
        watch(place, name)
    yield seen


def test_a_good_specification_builds_without_a_file_or_a_socket(good: dict[str, Any], guard: list[str]) -> None:
    model = ControlledModel.from_spec(good)
    assert model.spec() == good and model.class_names == ("a", "b", "c")
    assert guard == []


HOSTILE: list[tuple[tuple[str, ...], Any]] = [
    (("backbone",), "hf-hub:someone/model"),
    (("backbone",), "hf_hub:someone/model"),
    (("backbone",), "local-dir:/tmp"),
    (("backbone",), "timm/resnet10t"),
    (("backbone",), "https://example.com/model"),
    (("backbone",), "../../etc/passwd"),
    (("backbone",), "resnet10t\n"),
    (("backbone",), "nosuchmodel"),
    (("backbone",), None),
    (("pretrained",), True),
    (("checkpoint_path",), "/etc/passwd"),
    (("backbone_options", "pretrained"), True),
    (("backbone_options", "checkpoint_path"), "/etc/passwd"),
    (("backbone_options", "checkpoint_path"), "weights"),
    (("backbone_options", "cache_dir"), "x"),
    (("backbone_options", "pretrained_cfg"), "a1_in1k"),
    (("backbone_options", "pretrained_cfg"), {"file": "/etc/passwd"}),
    (("backbone_options", "pretrained_cfg"), {"hf_hub_id": "someone/model"}),
    (("backbone_options", "pretrained_cfg_overlay"), {"url": "http://example.com/w.pth"}),
    (("backbone_options", "pretrained_cfg_overlay"), {"file": "/etc/passwd"}),
    (("backbone_options", "pretrained_cfg_overlay"), {"hf_hub_id": "someone/model"}),
    (("backbone_options", "pretrained_cfg_overlay"), {"state_dict": {}}),
    (("backbone_options", "act_layer"), "os.system"),
    (("backbone_options", "act_layer"), "a/b"),
    (("backbone_options", "block_args"), {"weights_url": "x"}),
    (("backbone_options", "stem_width"), 10**12),
    (("backbone_options", "stem_width"), float("nan")),
    (("backbone_options", "deep"), [[[[[[1]]]]]]),
    (("backbone_options", "nosuchargument"), 1),
    (("projector_options", "depth"), 10**6),
    (("projector_options", "nosuch"), 1),
    (("adapter",), -1),
    (("adapter",), 10**12),
    (("projector",), "nosuch"),
    (("num_classes",), 10**12),
    (("num_classes",), True),
    (("num_classes",), "3"),
    (("num_classes",), 0),
    (("img_size",), 10**9),
    (("in_chans",), 0),
    (("drop",), 2.0),
    (("taps",), []),
    (("taps",), ["*" * 50]),
    (("taps",), ["layer[z-a]"]),
    (("taps",), [1]),
    (("pooling",), {"encoder": 3}),
    (("head",), "mlp"),
    (("normalization",), "nosuch"),
    (("preprocessing", "mean"), [9.0, 9.0]),
    (("preprocessing", "mean"), [float("inf")] * 3),
    (("preprocessing", "std"), [0.0] * 3),
    (("preprocessing", "input_size"), [3, 0, 32]),
    (("preprocessing", "interpolation"), "nosuch"),
    (("preprocessing", "url"), "http://example.com"),
    (("preprocessing", "pixels"), {"value_range": [1, 0]}),
    (("preprocessing", "pixels"), {"max_pixels": 0}),
    (("preprocessing", "pixels"), {"file": "x"}),
    (("class_names",), ["a"]),
    (("class_names",), "abc"),
]


@pytest.mark.parametrize(("place", "value"), HOSTILE, ids=[f"{'.'.join(p)}={str(v)[:40]!r}" for p, v in HOSTILE])
def test_what_a_specification_may_not_hold_is_one_line_and_opens_nothing(
    place: tuple[str, ...], value: Any, good: dict[str, Any], guard: list[str]
) -> None:
    spec = copy.deepcopy(good)
    inner = spec
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(UserError) as raised:
        ControlledModel.from_spec(spec)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    assert guard == []


def test_missing_keys_and_other_documents_are_refused(good: dict[str, Any]) -> None:
    for key in good.keys() - {"adapter", "auxiliary"}:  # files of earlier versions have none
        with pytest.raises(UserError, match=key):
            ControlledModel.from_spec({name: value for name, value in good.items() if name != key})
    for document in ([], None, "text", 3, {1: 2}):
        with pytest.raises(UserError, match="specification"):
            ControlledModel.from_spec(document)  # type: ignore[arg-type]


def test_how_images_are_prepared_survives_where_weights_came_from_does_not() -> None:
    overlay = {"mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0, "url": "http://example.com", "tag": "x"}
    model = ControlledModel("resnet10t", 3, projector=None, backbone_options={"pretrained_cfg_overlay": overlay})
    spec = model.spec()
    assert spec["backbone_options"] == {"pretrained_cfg_overlay": {k: overlay[k] for k in ("mean", "std", "crop_pct")}}
    assert ControlledModel.from_spec(spec).preprocessing == model.preprocessing


def test_a_setting_that_no_checkpoint_can_hold_is_refused_when_it_is_to_be_written() -> None:
    model = build_model(ModelConfig(name="resnet10t", img_size=32, kwargs={"act_layer": torch.nn.ReLU}), 3)
    with pytest.raises(UserError, match="kwargs cannot be written"):
        model.spec()


def test_a_model_from_an_address_can_be_used_but_not_described(tmp_path: Path) -> None:
    settings = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    model = ControlledModel(f"local-dir:{tmp_path}", 3, projector=None)
    with pytest.raises(UserError, match=r"has no specification: give the name of its architecture"):
        model.spec()


def test_paths_given_by_the_user_are_none_of_this(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        ControlledModel("resnet10t", 3, backbone_options={"checkpoint_path": str(tmp_path / "absent.pth")})
