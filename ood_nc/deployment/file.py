"""The file of a detector: tensors and one JSON header under a digest (`ood_nc.sealed`), so that nothing in it can run.

It may come from somebody who is not trusted: the network is built from a closed list of settings, detectors from their
registry, and what comes out has to judge an image before anybody gets it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import ood_nc
from ood_nc.data.pixels import pixel_rules
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, load_weights, weights_hash
from ood_nc.scores import ScoreEnsemble
from ood_nc.sealed import read_sealed, write_sealed

FORMAT = 2
_BACKBONE = "backbone/"
_SHOWN = 12
_PREPARING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_MADE_ANEW = ("index_", "index_sizes_", "index_counts_")
"""Search indexes: faiss reads them without checking them, so they are built again from the features."""


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
        "backbone": {
            "spec": spec,
            "hash": weights_hash(model),
            "included": backbone,
            "preprocessing": None if spec else _preparation(model.preprocessing),
        },
        "members": [
            {
                "tap": member.tap,
                "state": _pack(_without_indexes(member.detector.state_dict()), f"member{index}", tensors),
            }
            for index, member in enumerate(members)
        ],
        "ensemble": None if ensemble is None else _pack(ensemble.state_dict(), "ensemble", tensors),
        "calibration": _pack(vars(calibration), "calibration", tensors),
        "about": dict(about),
    }
    if backbone:
        tensors |= {_BACKBONE + key: value for key, value in model.state_dict().items()}
    write_sealed(path, tensors, header)


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
        members = [
            Member(str(entry["tap"]), _detector(_unpack(entry["state"], tensors))) for entry in header["members"]
        ]
        state = header["ensemble"]
        ensemble = None if state is None else ScoreEnsemble().load_state_dict(_unpack(state, tensors))
        calibration = Calibration(**_unpack(header["calibration"], tensors))
        return model, members, ensemble, calibration, dict(header["about"])
    except UserError:
        raise
    except Exception as error:  # a forged header makes nearly anything fail
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> UserError:
    """What to say of a file whose digest is right and whose content is not."""
    why = " ".join(str(error).split())[:200]
    return UserError(f"{path} cannot be used ({type(error).__name__}: {why}): fit it again.")


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
    header, tensors = read_sealed(path, with_tensors=with_tensors)
    if "members" not in header:
        raise UserError(f"{path} is no detector file: make one with ood-nc fit.")
    if header.get("format") != FORMAT:
        found = str(header.get("format"))[:_SHOWN]
        raise UserError(f"{path} has format {found}, this version reads {FORMAT}: update ood_nc, or fit it again.")
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
            _take_types(model, own)
            model.load_state_dict(own)
        else:
            raise UserError(f"{path} holds no backbone: give the run or the weights it was fitted on (--backbone).")
    stored = entry.get("preprocessing") if entry["spec"] is None else entry["spec"]["preprocessing"]
    if stored is not None:
        wanted, prepared = _preparation(stored), _preparation(model.preprocessing)
        for name in (name for name in wanted if prepared[name] != wanted[name]):
            raise UserError(
                f"{path} was fitted on images of {name} {wanted[name]}, {whose} has {prepared[name]}: its scores would "
                "mean nothing. Build the backbone as it was built then."
            )
    found = weights_hash(model)
    if found != entry["hash"]:
        raise UserError(
            f"{path} was fitted on a backbone with hash {entry['hash'][:_SHOWN]}, {whose} has {found[:_SHOWN]}: its "
            "scores would mean nothing. Give the weights it was fitted on."
        )
    return model


def _take_types(model: ControlledModel, state: Mapping[str, torch.Tensor]) -> None:
    """Give a model the number types of a state: weights of half or double precision would be rounded otherwise."""
    types = [value.dtype for value in state.values() if value.is_floating_point()]
    model.to(max(types, key=types.count))  # what is in no state, too
    for name, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[name].dtype)


def _preparation(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of an image before the network sees it, as JSON gives it back."""
    settings = {name: preprocessing.get(name) for name in _PREPARING}
    plain: dict[str, Any] = json.loads(json.dumps({**settings, "pixels": pixel_rules(preprocessing).model_dump()}))
    return plain


def _detector(state: dict[str, Any]) -> Any:
    return create_detector(state["detector"]).load_state_dict(_without_indexes(state))


def _without_indexes(state: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in state["fitted"].items() if name not in _MADE_ANEW}
    return {**state, "fitted": kept}


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON, its tensors moved to ``tensors`` under names that say where they were."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, (tuple, list)):
        parts = [_pack(part, f"{name}/{index}", tensors) for index, part in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, Mapping):
        # Pairs, not an object: JSON would turn keys that are numbers into text.
        return {"pairs": [[key, _pack(part, f"{name}/{key}", tensors)] for key, part in value.items()]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
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
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(_unpack(part, tensors) for part in value["tuple"])
    return {key: _unpack(part, tensors) for key, part in value["pairs"]}
