"""What may stand in a model's specification, which is read from files that somebody else may have written.

A specification chooses among timm's registered architectures and sets numbers and short words. It never names a file,
an address or weights to fetch, so that building a model from it opens nothing. It can still ask for a large model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import timm
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ood_nc.config import PixelConfig
from ood_nc.errors import UserError

LARGEST = 1_000_000
_DEPTH = 4
_FETCHES = re.compile(r"pretrained|checkpoint|file|url|cache|hub|weights|^path$|(?<!drop)_path$|_dir$")
_OVERLAY = "pretrained_cfg_overlay"
_OF_IMAGES = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "fixed_input_size")
_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")
_NAME = "[A-Za-z0-9_-]{1,100}"


def _architecture(name: str) -> str:
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"{name!r} is no architecture that the installed timm {timm.__version__} has")
    return name


def _pattern(pattern: str) -> str:
    if pattern.count("*") > 8:
        raise ValueError("a tap has at most eight stars")
    return pattern


def _settings(value: Any, depth: int = 0) -> Any:
    """Plain settings of a timm model: no key that could name something to load, no text but words."""
    if depth > _DEPTH:
        raise ValueError(f"settings are nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            harmless = key == _OVERLAY and depth == 0 and isinstance(inner, dict) and set(inner) <= set(_OF_IMAGES)
            if not isinstance(key, str) or not _WORD.fullmatch(key) or (_FETCHES.search(key) and not harmless):
                raise ValueError(f"the key {key!r} is not allowed")
            _settings(inner, depth + 1)
    elif isinstance(value, list):
        if len(value) > 1000:
            raise ValueError("a list is longer than 1000")
        for inner in value:
            _settings(inner, depth + 1)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise ValueError(f"{value!r} is no plain word")
    elif value is not None and not (isinstance(value, (bool, int, float)) and abs(value) <= LARGEST):
        raise ValueError(f"{value!r} is not allowed")
    return value


Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
Whole = Annotated[int, Field(ge=1, le=LARGEST)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Text = Annotated[str, StringConstraints(max_length=1000)]
Settings = Annotated[dict[str, Any], AfterValidator(_settings)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_pattern)]
Side = Annotated[int, Field(ge=1, le=16384)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Preprocessing(_Part):
    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"]
    mean: Annotated[list[Number], Field(min_length=1, max_length=4096)]
    std: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1, max_length=4096)]
    crop_pct: Annotated[Number, Field(gt=0, le=10)]
    crop_mode: Literal["center", "squash", "border"]
    pixels: PixelConfig = Field(default_factory=PixelConfig)

    @model_validator(mode="after")
    def _one_a_channel(self) -> _Preprocessing:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError(f"mean and std must have a value for each of the {self.input_size[0]} channels")
        return self


class _Projector(_Part):
    construction: Word
    depth: Annotated[int, Field(ge=1, le=64)]
    width: Annotated[Number, Field(gt=0, le=1024)]
    dim: Whole | None
    normalize: bool
    eps: Annotated[Number, Field(ge=0)]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]


class _Specification(_Part):
    backbone: Annotated[str, StringConstraints(pattern=rf"^{_NAME}(\.{_NAME})?$"), AfterValidator(_architecture)]
    num_classes: Whole
    projector: Word | None
    projector_options: _Projector | Annotated[dict[str, Any], Field(max_length=0)]
    adapter: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    taps: Annotated[list[Pattern], Field(min_length=1, max_length=10_000)]
    pooling: Word | Annotated[dict[Pattern, Word], Field(max_length=10_000)]
    head: Literal["linear", "etf", "etf_bias"]
    auxiliary: Annotated[list[Pattern], Field(max_length=1000)] = []
    normalization: Word
    img_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None
    in_chans: Annotated[int, Field(ge=1, le=4096)]
    drop: Share
    drop_path: Share
    backbone_options: Settings
    preprocessing: _Preprocessing
    class_names: list[Text] | None

    @model_validator(mode="after")
    def _one_a_class(self) -> _Specification:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"there are {len(self.class_names)} class names for {self.num_classes} classes")
        return self


def check_specification(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification, every value of it checked by type and range.

    Raises:
        UserError: a key too many or too few, an unknown architecture, or a value that a specification may not hold.
    """
    try:
        return _Specification.model_validate(dict(spec)).model_dump(mode="json", exclude_unset=True)
    except (ValidationError, TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError("The specification of the model is no mapping: the file is damaged or forged.") from None
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])[:100]
        why = first["msg"].removeprefix("Value error, ")[:200]
        raise UserError(f"The specification of the model is refused: {key or 'as a whole'}: {why}.") from None


def without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a timm model without those that say where its weights come from: no copy of it needs them."""
    kept = {key: value for key, value in options.items() if not key.startswith("pretrained")}
    overlay = {key: value for key, value in dict(options.get(_OVERLAY) or {}).items() if key in _OF_IMAGES}
    return {**kept, _OVERLAY: overlay} if overlay else kept
