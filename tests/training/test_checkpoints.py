"""Checkpoints: what they hold, and that no crash between their two files loses the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.training import checkpoints
from ood_nc.training.checkpoints import (
    LAST,
    NEXT,
    STATE,
    describe,
    pack_weights,
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
    content, token = pack_weights(model, {"epoch": epoch})
    write_last(folder, content, token, {"epoch": epoch})


def test_weights_say_which_model_they_are(tmp_path, model):
    channels_last = ControlledModel.from_spec(model.spec()).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    write_weights(tmp_path / "a.safetensors", pack_weights(channels_last, {"epoch": 3, "val_accuracy": 0.5})[0])
    about = describe(tmp_path / "a.safetensors")
    assert about["facts"] == {"epoch": 3, "val_accuracy": 0.5}
    rebuilt = ControlledModel.from_spec(about["spec"])
    assert rebuilt.class_names == ("ant", "bee", "cat") and rebuilt.preprocessing == model.preprocessing
    stored = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        json.loads(file.metadata()["ood_nc"])


def test_tied_weights_are_kept(tmp_path):
    tied = ControlledModel("test_resnet", 3, img_size=32)
    tied.register_buffer("twin", tied.head.bias.detach())
    write_weights(tmp_path / "a.safetensors", pack_weights(tied, {})[0])
    assert torch.equal(load_file(tmp_path / "a.safetensors")["twin"], tied.head.bias)


@pytest.mark.parametrize("dies_at", [NEXT, STATE, LAST, None])
@pytest.mark.parametrize("first", [False, True])
def test_wherever_the_process_dies_state_and_weights_belong_together(tmp_path, model, monkeypatch, dies_at, first):
    if not first:
        keep(tmp_path, model, 1)
    replace, os_replace = Path.replace, checkpoints.atomic_path.__globals__["os"].replace

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
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    for name, message in (("none", "There is no checkpoint"), ("broken", "not a whole"), ("foreign", "does not say")):
        with pytest.raises(UserError, match=message) as error:
            describe(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value)
    state = (tmp_path / STATE).read_bytes()
    for content in (b"", b"nonsense", state[: len(state) // 2]):
        (tmp_path / STATE).write_bytes(content)
        with pytest.raises(UserError, match="Cannot read the training state") as error:
            read_last(tmp_path)
        assert "\n" not in str(error.value)


def test_weights_of_another_run_are_not_taken_for_ours(tmp_path, model):
    keep(tmp_path, model, 1)
    write_weights(tmp_path / LAST, pack_weights(model, {})[0])
    with pytest.raises(UserError, match="are gone"):
        read_last(tmp_path)


def test_the_state_loads_without_code(tmp_path, model):
    class Payload:
        def __reduce__(self):
            return print, ("executed",)

    keep(tmp_path, model, 1)
    torch.save({"token": Payload()}, tmp_path / STATE)
    with pytest.raises(UserError, match="Cannot read the training state"):
        read_last(tmp_path)
