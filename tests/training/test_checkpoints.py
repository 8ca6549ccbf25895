"""Checkpoints: what they hold, and that no crash between their two files loses the run."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.sealed import write_sealed, write_sealed_bytes
from ood_nc.training.checkpoints import (
    BEST,
    LAST,
    NEXT,
    STATE,
    describe,
    load_model,
    read_header,
    read_last,
    settle,
    write_last,
    write_weights,
)


class Killed(BaseException):
    """Stands for the process ending there."""


@pytest.fixture(scope="module")
def model():
    built = ControlledModel("test_resnet", 3, img_size=32)
    built.class_names = ("ant", "bee", "cat")
    return built


def keep(folder, model, epoch):
    with torch.no_grad():
        model.head.bias.fill_(epoch)
    write_last(folder, model.state_dict(), describe(model, {"epoch": epoch}), {"epoch": epoch})


def test_weights_say_which_model_they_are(tmp_path, model):
    channels_last = ControlledModel.from_spec(model.spec()).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    header = describe(channels_last, {"epoch": 3, "val_accuracy": 0.5})
    write_weights(tmp_path / "a.safetensors", channels_last.state_dict(), header)
    assert read_header(tmp_path / "a.safetensors") == header
    rebuilt, facts = load_model(tmp_path / "a.safetensors")
    assert facts == {"epoch": 3, "val_accuracy": 0.5}
    assert rebuilt.class_names == ("ant", "bee", "cat") and rebuilt.preprocessing == model.preprocessing
    stored = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        json.loads(file.metadata()["ood_nc"])


def test_tied_weights_are_kept(tmp_path):
    tied = ControlledModel("test_resnet", 3, img_size=32)
    tied.register_buffer("twin", tied.head.bias.detach())
    write_weights(tmp_path / "a.safetensors", tied.state_dict(), describe(tied, {}))
    assert torch.equal(load_file(tmp_path / "a.safetensors")["twin"], tied.head.bias)


@pytest.mark.parametrize("dies_at", [NEXT, STATE, LAST, None])
@pytest.mark.parametrize("first", [False, True])
def test_wherever_the_process_dies_state_and_weights_belong_together(tmp_path, model, monkeypatch, dies_at, first):
    if not first:
        keep(tmp_path, model, 1)
    replace, os_replace = Path.replace, os.replace

    def mortal_path_replace(self, target):
        if Path(target).name == dies_at:
            raise Killed
        return replace(self, target)

    def mortal_os_replace(source, target):
        if Path(target).name == dies_at:
            raise Killed
        return os_replace(source, target)

    monkeypatch.setattr(Path, "replace", mortal_path_replace)
    monkeypatch.setattr("os.replace", mortal_os_replace)
    if dies_at is None:
        keep(tmp_path, model, 2)
    else:
        with pytest.raises(Killed):
            keep(tmp_path, model, 2)
    monkeypatch.undo()
    epoch = {NEXT: 1, STATE: 1, LAST: 2, None: 2}[dies_at]
    for _ in range(2):  # before and after it has been settled
        found = read_last(tmp_path)
        if first and epoch == 1:
            assert found is None
        else:
            path, state = found
            assert state["epoch"] == epoch
            assert float(load_file(path)["head.bias"][0]) == epoch
        settle(tmp_path)
    # A settled checkpoint survives that the next one dies at its first file.
    assert found is None or found[0].name == LAST or dies_at == LAST
    if epoch == 2:
        assert read_last(tmp_path)[0].name == LAST


def test_unreadable_files_are_one_line(tmp_path, model):
    keep(tmp_path, model, 1)
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    write_sealed(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"kind": "bank"})
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    cases = {"none": "There is no file", "broken": "is damaged", "foreign": "no digest", "other": "does not say which"}
    for name, message in cases.items():
        for read in (read_header, load_model):
            with pytest.raises(UserError, match=message) as error:
                read(tmp_path / f"{name}.safetensors")
            assert "\n" not in str(error.value)


def damaged(content, generator, way):
    """One of the ways in which files go bad, at a random place."""
    at = int(torch.randint(len(content), (1,), generator=generator))
    if way == "flip":
        bit = 1 << int(torch.randint(8, (1,), generator=generator))
        return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
    before, behind = content[:at], content[at + 1 :]
    return before + {"cut": b"", "drop": behind, "zeros": bytes(len(behind) + 1), "twice": content[at // 2 :]}[way]


@pytest.mark.parametrize("name", [LAST, STATE])
@pytest.mark.parametrize("way", ["flip", "cut", "drop", "zeros", "twice"])
def test_whatever_is_damaged_is_one_line_and_nothing_older_takes_its_place(tmp_path, model, name, way):
    keep(tmp_path, model, 1)
    (tmp_path / BEST).write_bytes((tmp_path / LAST).read_bytes())
    keep(tmp_path, model, 2)
    whole, generator = (tmp_path / name).read_bytes(), torch.Generator().manual_seed(0)
    for _ in range(12):
        content = damaged(whole, generator, way)
        if content == whole:
            continue
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            UserError, match=rf"{name} is damaged.*cannot go on from it; .*--initial-checkpoint"
        ) as error:
            read_last(tmp_path)
        assert "\n" not in str(error.value)
        if name == LAST:
            with pytest.raises(UserError, match="is damaged"):
                load_model(tmp_path / LAST)


def test_weights_of_another_run_are_not_taken_for_ours(tmp_path, model):
    keep(tmp_path, model, 1)
    write_weights(tmp_path / LAST, model.state_dict(), describe(model, {}))
    with pytest.raises(UserError, match="are gone"):
        read_last(tmp_path)


def test_the_state_loads_without_code(tmp_path, model):
    class Payload:
        def __reduce__(self):
            return print, ("executed",)

    keep(tmp_path, model, 1)
    buffer = io.BytesIO()
    torch.save({"token": Payload()}, buffer)
    write_sealed_bytes(tmp_path / STATE, buffer.getvalue())
    with pytest.raises(UserError, match="is no training state of a run"):
        read_last(tmp_path)
