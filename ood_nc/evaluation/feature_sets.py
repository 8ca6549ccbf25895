"""Features that were extracted elsewhere, evaluated as images would be: no model and no image is needed.

The layout is the same for one file, for a folder and for arrays: every array has a name of parts joined by ``/``.

    id_train/TAP, id_test/TAP      features (N, d) of the ID images, fitted on and tested; id_val/TAP where there is one
    ood/NAME/TAP                   of an OOD set; near/NAME, far/NAME, covariate/NAME say its group (ood is far)
    transfer/NAME/train/TAP        of the train and the test part of a transfer task (and transfer/NAME/test/TAP)
    SET/labels                     class indices (N,); needed for id_train, id_test and transfer sets, else optional
    SET/ids                        (N,), optional: names of the samples, by which runs are compared; no name twice
    SET/logits                     (N, C), optional: what the head gave, for every ID and OOD set or none
    head/weight, head/bias         (C, d) and (C,), optional: the head; it reads the tap of its width that gives the
                                   logits, without logits the deepest

Where a set has one tap only, its name may be left out. In an ``.npz`` or ``.safetensors`` file the names are its keys.
In a folder they are the paths, each file's own keys added: ``ood/textures.npz`` with the key ``encoder`` and
``ood/textures/encoder.npy`` are the same. Taps are in depth order as they come, ``encoder``,
``adapter`` and ``projector`` last.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.data import ImageDataset
from ood_nc.data.numpy_files import check_array_size
from ood_nc.data.stores import Store
from ood_nc.errors import UserError
from ood_nc.features import FeatureBank
from ood_nc.files import expanded
from ood_nc.models import TapInfo
from ood_nc.models.taps import BEHIND

FEATURE_FILES = (".npy", ".npz", ".safetensors")
ONE_TAP = "features"
"""The name of a tap that has none."""

_ROWS_AT_ONCE = 1 << 16
_COMPARED = 1000
_LENGTHS = {"id_train": 1, "id_val": 1, "id_test": 1, "ood": 2, "near": 2, "far": 2, "covariate": 2, "transfer": 3}
_SPARSE = 30_000
"""No data set of so many classes is fitted on a hundredth of them."""
_LAYOUT = "id_train/TAP, id_test/TAP, ood/NAME/TAP, transfer/NAME/train/TAP, SET/labels, SET/logits, head/weight"


class FeatureStore(Store):
    """Features in the place of images: the content of a sample is its features at every tap."""

    def __init__(self, taps: dict[str, torch.Tensor], logits: torch.Tensor) -> None:
        super().__init__()
        self.taps, self.logits = taps, logits

    def __len__(self) -> int:
        return len(self.logits)

    def read(self, index: int) -> bytes:
        """The features of a sample."""
        return b"".join(features[index].view(torch.uint8).numpy().tobytes() for features in self.taps.values())

    def image(self, index: int) -> Image.Image:
        """There is none."""
        raise OSError("features have no image")


@dataclass(frozen=True)
class FeatureModel:
    """What an evaluation asks of a model, where only features are known.

    Attributes:
        tap_info: a `TapInfo` by name, in depth order.
        head_tap: what the head reads; without a head the projector, else the encoder, else the deepest tap.
        num_classes: C.
        head_weight: (C, d), or None.
        head_bias: (C,), or None.
        head_is_fresh: whether there is neither a head nor logits.
    """

    tap_info: dict[str, TapInfo]
    head_tap: str
    num_classes: int
    head_weight: torch.Tensor | None
    head_bias: torch.Tensor | None
    head_is_fresh: bool
    backbone_name: str = "features"
    class_names: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """The taps in depth order."""
        return tuple(self.tap_info)

    def spec(self) -> None:
        """There is no network to describe."""


def open_features(source: str | Path | Mapping[str, ArrayLike]) -> tuple[FeatureModel, dict[str, Any]]:
    """Open features that were extracted elsewhere.

    Args:
        source: an ``.npz`` or ``.safetensors`` file, a folder, or arrays by name; the layout is this module's.

    Returns:
        What stands for the model, and the sets as arguments of `evaluate`.

    Raises:
        UserError: no such file, a damaged one, a name outside the layout, or arrays that do not fit each other.
    """
    arrays = dict(source) if isinstance(source, Mapping) else _read(expanded(source))
    sets: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        key, part = _parse(name)
        if part in sets.setdefault(key, {}):
            raise UserError(f"The features hold {key}/{part} twice, as {name} too: leave one.")
        sets[key][part] = array
    head = sets.pop("head", {})
    for needed in ("id_train", "id_test"):
        if needed not in sets:
            raise UserError(f"The features hold no {needed}: name arrays {_LAYOUT}.")
    names = _order([name for name in sets["id_train"] if name not in ("labels", "logits", "ids")])
    taps = {tap: as_matrix(sets["id_train"][tap], f"id_train/{tap}").shape[1] for tap in names}
    with_logits = _with_logits(sets, head)
    weight = None if "weight" not in head else as_matrix(head["weight"], "head/weight").float()
    bias = None if "bias" not in head else as_tensor(head["bias"], "head/bias").float()
    if bias is not None and (weight is None or bias.shape != (len(weight),)):
        raise UserError(f"head/bias has the shape {tuple(bias.shape)}: head/weight (C, d) takes (C,).")
    head_tap = _head_tap(taps, weight, bias, sets["id_train"] if with_logits else {})
    opened = {}
    for key, parts in sets.items():
        opened[key] = _open(key, parts, taps, head_tap, weight, bias, with_logits)
    num_classes = opened["id_train"].num_classes if weight is None else len(weight)
    info = {tap: TapInfo(tap, depth, "none", width, None) for depth, (tap, width) in enumerate(taps.items())}
    fresh = weight is None and not with_logits
    return FeatureModel(info, head_tap, num_classes, weight, bias, fresh), _arguments(opened)


def feature_bank(dataset: ImageDataset) -> FeatureBank:
    """The bank of a set (or a part of one) that `open_features` opened."""
    store, rows = dataset.store, torch.as_tensor(dataset.rows)
    assert isinstance(store, FeatureStore)
    # A whole set stays where it is: it may be larger than the memory.
    place = slice(None) if torch.equal(rows, torch.arange(len(store))) else rows
    taps = {name: features[place] for name, features in store.taps.items()}
    return FeatureBank(taps, store.logits[place], torch.as_tensor(dataset.targets), dataset.ids)


def _arguments(opened: Mapping[str, ImageDataset]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "id": opened["id_test"],
        "id_train": opened["id_train"],
        "id_val": opened.get("id_val"),
    }
    arguments |= {"ood": {}, "groups": {}, "transfer": {}}
    for key, dataset in opened.items():
        kind, *rest = key.split("/")
        if kind == "transfer":
            other = opened.get(f"transfer/{rest[0]}/{'test' if rest[1] == 'train' else 'train'}")
            if other is None:
                raise UserError(f"The features hold {key}, but not its other part: a task has train and test.")
            if rest[1] == "train":
                arguments["transfer"][rest[0]] = (dataset, other)
        elif kind not in ("id_train", "id_val", "id_test"):
            if rest[0] in arguments["ood"]:
                raise UserError(f"The features hold two OOD sets named {rest[0]}: give each a name of its own.")
            arguments["ood"][rest[0]] = dataset
            arguments["groups"][rest[0]] = "far" if kind == "ood" else kind
    return arguments


def _open(
    key: str,
    parts: Mapping[str, Any],
    taps: Mapping[str, int],
    head_tap: str,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    with_logits: bool,
) -> ImageDataset:
    missing = [tap for tap in taps if tap not in parts]
    unknown = [part for part in parts if part not in (*taps, "labels", "logits", "ids")]
    if missing or unknown:
        what = f"no tap {missing[0]!r}" if missing else f"a tap {unknown[0]!r} that id_train lacks"
        raise UserError(f"{key} has {what}: every set needs the same taps, {', '.join(taps)}.")
    features = {tap: _kept(as_matrix(parts[tap], f"{key}/{tap}")) for tap in taps}
    for tap, width in taps.items():
        if features[tap].shape[1] != width:
            raise UserError(f"{key}/{tap} has {features[tap].shape[1]} columns, id_train/{tap} has {width}.")
    first = next(iter(taps))
    n = len(features[first])
    wrong = next((tap for tap in taps if len(features[tap]) != n), None)
    if wrong is not None:
        raise UserError(f"{key}: {first} has {n} rows, {wrong} has {len(features[wrong])}; there must be as many.")
    labels = torch.full((n,), -1) if "labels" not in parts else as_labels(parts["labels"], n, f"{key}/labels")
    if key.endswith("train"):
        _check_numbering(labels, key)
    if with_logits and "logits" in parts:
        logits = as_matrix(parts["logits"], f"{key}/logits").float().cpu()
        if len(logits) != n:
            raise UserError(f"{key}: logits have {len(logits)} rows for {n} samples.")
    elif weight is not None:
        offset = None if bias is None else bias.cpu()
        blocks = features[head_tap].split(_ROWS_AT_ONCE)
        logits = torch.cat([torch.nn.functional.linear(block.float(), weight.cpu(), offset) for block in blocks])
    else:
        logits = torch.zeros(n, 0)
    ids = [str(name) for name in parts["ids"]] if "ids" in parts else [f"{index:06d}" for index in range(n)]
    if len(set(ids)) < len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise UserError(f"{key}/ids names {twice!r} more than once: give each sample an id of its own.")
    return ImageDataset(FeatureStore(features, logits), name=key, ids=ids, targets=labels.cpu().numpy())


def _check_numbering(labels: torch.Tensor, key: str) -> None:
    """Refuse numbers that are no indices of classes: every class up to the largest has a place in what is measured."""
    largest, classes = int(labels.max()) if len(labels) else 0, len(labels.unique())
    if largest >= max(_SPARSE, 100 * classes):
        raise UserError(f"{key}/labels holds {classes} classes numbered up to {largest}: number them from 0 on.")


def _kept(features: torch.Tensor) -> torch.Tensor:
    """In half precision as they are, else float32."""
    return (features if features.dtype in (torch.float16, torch.bfloat16) else features.float()).cpu()


def _with_logits(sets: Mapping[str, Mapping[str, Any]], head: Mapping[str, Any]) -> bool:
    """Whether the head's outputs are known of every set that is scored; transfer sets are not."""
    scored = {key: "logits" in parts for key, parts in sets.items() if not key.startswith("transfer/")}
    if any(scored.values()) and not all(scored.values()) and "weight" not in head:
        having, lacking = (next(key for key, has in scored.items() if has is wanted) for wanted in (True, False))
        raise UserError(f"{having} has logits, {lacking} has none: give them for every set but transfer, or for none.")
    return all(scored.values())


def _head_tap(
    taps: Mapping[str, int], weight: torch.Tensor | None, bias: torch.Tensor | None, train: Mapping[str, Any]
) -> str:
    """The tap of the head's width from which the head gives the logits of ``train``; without logits the deepest."""
    if weight is None:
        return list(taps)[-1]
    fitting = [tap for tap, width in taps.items() if width == weight.shape[1]]
    if not fitting:
        listed = ", ".join(f"{tap} {width}" for tap, width in taps.items())
        raise UserError(f"head/weight has {weight.shape[1]} columns, and no tap has that width ({listed}).")
    if "logits" not in train:
        return fitting[-1]

    def apart(tap: str) -> float:
        rows, logits = (as_matrix(train[name], name)[:_COMPARED].double().cpu() for name in (tap, "logits"))
        given = torch.nn.functional.linear(rows, weight.double().cpu(), None if bias is None else bias.double().cpu())
        return float((given - logits).square().mean()) if given.shape == logits.shape else math.inf

    return min(reversed(fitting), key=apart)


def _order(taps: list[str]) -> list[str]:
    if not taps:
        raise UserError(f"The features hold no tap of id_train: name arrays {_LAYOUT}.")
    last = [name for name in BEHIND if name in taps]
    return [tap for tap in taps if tap not in last] + last


def _parse(name: str) -> tuple[str, str]:
    """The set and the tap (or labels, logits, ids) that a name means."""
    parts = name.strip("/").split("/")
    if parts[0] == "head" and len(parts) == 2 and parts[1] in ("weight", "bias"):
        return "head", parts[1]
    length = _LENGTHS.get(parts[0], 0)
    fits = length and len(parts) in (length, length + 1) and all(parts)
    if not fits or (parts[0] == "transfer" and parts[2] not in ("train", "test")):
        raise UserError(f"The features hold an array named {name!r}: name arrays {_LAYOUT}.")
    return "/".join(parts[:length]), parts[length] if len(parts) > length else ONE_TAP


def _read(path: Path) -> dict[str, ArrayLike]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in FEATURE_FILES and file.is_file())
        if not files:
            raise UserError(f"No {', '.join(FEATURE_FILES)} files in {path}: name them {_LAYOUT}.")
        found: dict[str, ArrayLike] = {}
        for file in files:
            place = file.relative_to(path).with_suffix("").as_posix()
            for key, array in _read_file(file).items():
                name = "/".join(part for part in (place, key) if part)
                if name in found:
                    raise UserError(f"The features hold {name} twice, once more in {file}: leave one.")
                found[name] = array
        return found
    if path.suffix not in FEATURE_FILES or not path.is_file():
        raise UserError(f"No features at {path}: expected an .npz or .safetensors file, or a folder of such and .npy.")
    return _read_file(path)


def _read_file(path: Path) -> dict[str, ArrayLike]:
    """The arrays of a file by key; that of an .npy file under the empty key."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if path.suffix == ".npy":
            # Mapped so that it may be written to (privately): what may not be is copied on its way to a tensor.
            return {"": np.load(path, mmap_mode="c", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                check_array_size(path, key)
            return dict(arrays.items())
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise UserError(f"Cannot read {path} ({' '.join(str(error).split())[:150]}).") from None
