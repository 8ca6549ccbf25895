"""The file of a detector: tensors and one JSON header, in the safetensors format, so that nothing in it can run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import ood_nc
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.files import atomic_path
from ood_nc.models import ControlledModel, load_weights, weights_hash
from ood_nc.scores import ScoreEnsemble

logger = logging.getLogger(__name__)
FORMAT = 1
_ENTRY = "ood_nc_detector"
_BACKBONE = "backbone/"
_SHOWN = 12


def write(
    path: Path,
    model: ControlledModel,
    members: Sequence[Member],
    ensemble: ScoreEnsemble | None,
    calibration: Calibration,
    about: Mapping[str, Any],
    backbone: bool,
) -> None:
    """Write a detector to ``path``, whole or not at all.

    Raises:
        UserError: the model has no specification and its weights were asked for; the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        spec = model.spec()
    except UserError:
        if backbone:
            raise
        spec = None
    header = {
        "format": FORMAT,
        "versions": {"ood_nc": ood_nc.__version__, "torch": str(torch.__version__), "timm": timm.__version__},
        "backbone": {"spec": spec, "hash": weights_hash(model), "included": backbone},
        "members": [
            {"tap": member.tap, "state": _pack(member.detector.state_dict(), f"member{index}", tensors)}
            for index, member in enumerate(members)
        ],
        "ensemble": None if ensemble is None else _pack(ensemble.state_dict(), "ensemble", tensors),
        "calibration": _pack(vars(calibration), "calibration", tensors),
        "about": dict(about),
    }
    if backbone:
        tensors |= {_BACKBONE + key: value for key, value in model.state_dict().items()}
    # Copies: tied weights share their memory, which the format refuses.
    plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={_ENTRY: json.dumps(header)})


def read(
    path: Path, backbone: ControlledModel | str | Path | None
) -> tuple[ControlledModel, list[Member], ScoreEnsemble | None, Calibration, dict[str, Any]]:
    """Read what `write` wrote: the arguments of a `Detector`.

    Raises:
        UserError: no such file, damaged, of a later format, without a backbone or with another one.
    """
    header, tensors = _contents(path)
    try:
        model = _model(path, header["backbone"], tensors, backbone)
        members = [Member(entry["tap"], _detector(_unpack(entry["state"], tensors))) for entry in header["members"]]
        state = header["ensemble"]
        ensemble = None if state is None else ScoreEnsemble().load_state_dict(_unpack(state, tensors))
        calibration = Calibration(**_unpack(header["calibration"], tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): fit it again.") from error
    return model, members, ensemble, calibration, header["about"]


def describe(path: str | Path) -> dict[str, Any]:
    """What a detector's file says of itself, without loading it: its JSON header.

    Raises:
        UserError: no such file, or not a detector's.
    """
    header, _ = _contents(Path(path), with_tensors=False)
    return header


def _contents(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"No detector file {path}: make one with ood-nc fit.")
    try:
        with safe_open(path, framework="pt") as opened:
            entry = (opened.metadata() or {}).get(_ENTRY)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, or no detector file ({' '.join(str(error).split())[:100]}).") from error
    if entry is None:
        raise UserError(f"{path} is no detector file: make one with ood-nc fit.")
    header = json.loads(entry)
    if header["format"] != FORMAT:
        raise UserError(f"{path} has format {header['format']}, this version reads {FORMAT}: update ood_nc.")
    return header, tensors


def _model(
    path: Path,
    entry: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    given: ControlledModel | str | Path | None,
) -> ControlledModel:
    if isinstance(given, ControlledModel):
        model, whose = given, "the given backbone"
    elif entry["spec"] is None:
        raise UserError(f"{path} was fitted on a module of your own: pass that model as backbone.")
    else:
        model = ControlledModel.from_spec(entry["spec"]).eval()
        if given is not None:
            place = Path(given)
            whose = str(place / "checkpoints" / "best.safetensors" if place.is_dir() else place)
            load_weights(model, whose)
        elif entry["included"]:
            whose = "its own backbone"
            own = {k.removeprefix(_BACKBONE): v for k, v in tensors.items() if k.startswith(_BACKBONE)}
            model.load_state_dict(own)
        else:
            raise UserError(f"{path} holds no backbone: give the run or the weights it was fitted on (--backbone).")
    found = weights_hash(model)
    if found != entry["hash"]:
        raise UserError(
            f"{path} was fitted on a backbone with hash {entry['hash'][:_SHOWN]}, {whose} has {found[:_SHOWN]}: its "
            "scores would mean nothing. Give the weights it was fitted on."
        )
    return model


def _detector(state: dict[str, Any]) -> Any:
    return create_detector(state["detector"]).load_state_dict(state)


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON, its tensors moved to ``tensors`` under names that say where they were."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, tuple):
        return {"tuple": [_pack(part, f"{name}/{index}", tensors) for index, part in enumerate(value)]}
    if isinstance(value, list):
        return [_pack(part, f"{name}/{index}", tensors) for index, part in enumerate(value)]
    if isinstance(value, Mapping):
        # Pairs, not an object: JSON would turn keys that are numbers into text.
        return {"pairs": [[key, _pack(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A detector's state must be tensors and plain values; {name} is a {type(value).__name__}.")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unpack(part, tensors) for part in value["tuple"])
    return {key: _unpack(part, tensors) for key, part in value["pairs"]}
