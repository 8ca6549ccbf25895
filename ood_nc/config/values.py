"""What a value of the configuration may be: the base of its sections, and the types that several of them use."""

from __future__ import annotations

import math
import types
import typing
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from ood_nc.documents import DISJOINT


class Section(BaseModel):
    """A part of the configuration. Unknown keys are refused, and values that cannot mean anything."""

    model_config = ConfigDict(extra="forbid", validate_default=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _has_meaning(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = kinds_of(cls.model_fields[str(info.field_name)].annotation)
        if value == "None" and type(None) in kinds:  # as sweep agents write it
            return None
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError("true and false mean nothing here")
        if any(is_section(kind) for kind in kinds):
            return value  # whose fields are looked at one by one
        for part in _leaves(value):
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError("a finite number is needed")
            if isinstance(part, str) and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in part):
                raise ValueError("text without control characters is needed")
        return value


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Whether a type is a section of the schema. In Python 3.10 ``list[str]`` passes for a class and is none."""
    return typing.get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Section)


def kinds_of(annotation: Any) -> set[Any]:
    """The types that a field's values can have, without what is inside them: ``{list}`` of ``list[int]``."""
    if hasattr(annotation, "__metadata__"):
        return kinds_of(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(kinds_of(part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is Literal:
        return {type(part) for part in typing.get_args(annotation)}
    return {typing.get_origin(annotation) or annotation}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def flag(default: Any, help: str, *flags: str, **bounds: float) -> Any:
    """A field with its help, its bounds, and the timm flags that mean it beyond the dotted name and its last part."""
    settings: dict[str, Any] = {**bounds, **({"json_schema_extra": {"flags": list(flags)}} if flags else {})}
    if isinstance(default, (dict, list)):
        return Field(default_factory=lambda: type(default)(default), description=help, **settings)
    return Field(default=default, description=help, **settings)


def in_list(value: Any) -> Any:
    """One number stands for the list of it."""
    return [value] if isinstance(value, (int, float)) else value


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def in_order(value: tuple[float, float]) -> tuple[float, float]:
    """A range whose smaller bound comes first."""
    if value[0] > value[1]:
        raise ValueError("the smaller bound comes first")
    return value


def all_positive(values: list[float]) -> list[float]:
    """Values that can be divided by."""
    if min(values) <= 0:
        raise ValueError("every value must be greater than 0")
    return values


Side = Annotated[int, Field(ge=8, le=2**14)]
Channels = Annotated[int, Field(ge=1, le=1024)]
ChannelValues = Annotated[
    list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=1, max_length=1024), BeforeValidator(in_list)
]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Text], BeforeValidator(_as_list)]
Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=100)]

_RESERVED = ("mean", "id_train", "id_val", "id_test")


def _is_name(value: str) -> str:
    """A name that can stand in a path and in a row of the results."""
    if value in (".", "..") or "/" in value or "\\" in value or len(value) > 200 or not value.strip():
        raise ValueError("a plain name is needed, without slashes")
    return value


def is_taken(name: str) -> bool:
    """Whether the long table calls a set of its own so, or a set without its overlap with ID."""
    return name in _RESERVED or name.endswith(DISJOINT)


def _is_free(value: str) -> str:
    if is_taken(value):
        raise ValueError(f"a set cannot be called {value!r}: the results call one of their own so")
    return _is_name(value)


Name = Annotated[str, AfterValidator(_is_name)]
SetName = Annotated[str, AfterValidator(_is_free)]
