"""Reading a configuration, and what is wrong with one in one line."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ood_nc.config.schema import Config
from ood_nc.config.values import Section, is_section, kinds_of
from ood_nc.errors import UserError, nearest


def load(path: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration: an override beats the file, the file beats the default.

    Args:
        path: YAML file; defaults alone when not given.
        overrides: dotted key to value, e.g. ``{"optim.lr": 0.1}``.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (with the nearest match), a value is wrong.
    """
    values = {} if path is None else _read(Path(path))
    for key, value in (overrides or {}).items():
        _put(values, key.split("."), copy.deepcopy(value))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_one_line(error, str(path) if path else "flags")) from None


def known_keys(section: type[Section] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the schema with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        inner = next((kind for kind in kinds_of(field.annotation) if is_section(kind)), None)
        if inner is not None:
            keys.update(known_keys(inner, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field
    return keys


def parse_yaml(text: str) -> Any:
    """What a YAML text means; a key that stands twice in one mapping is a mistake.

    Raises:
        UserError: it is not YAML; the message, without a full stop, starts with the line where that is known.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"line {mark.line + 1}: {problem}" if mark else problem) from None
    except RecursionError:
        raise UserError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a number or a date that cannot be
        raise UserError(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, for which each key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"No configuration file {path}: give the path of a YAML file.") from None
    except UserError as error:
        raise UserError(f"{path} is not YAML, {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the configuration {path}: {error}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(values).__name__}.")
    return values


# Where a plain value may stand for a mapping, the entry that it means.
_SHORTHAND = {("data", "ood"): "source", ("data", "transfer"): "train", ("loss",): "encoder"}


def _put(values: dict[str, Any], parts: list[str], value: Any) -> None:
    for depth, part in enumerate(parts[:-1]):
        inner = values.get(part)
        if not isinstance(inner, dict):
            entry = _SHORTHAND.get(tuple(parts[:depth]))
            if inner is not None and (entry is None or isinstance(inner, list)):
                whole, place = ".".join(parts), ".".join(parts[: depth + 1])
                raise UserError(f"{whole} cannot be set where {place} is {inner!r}: set {place} as a whole.")
            inner = {} if inner is None else {entry: inner}
            values[part] = inner
        values = inner
    values[parts[-1]] = value


_KIND = re.compile(r"function-|(dict|list|tuple)\[|(float|int|str|constrained-str)$")
"""What pydantic puts into the place of a mistake that is no key: the kind of value that was tried."""


def _one_line(error: ValidationError, where: str) -> str:
    first, *others = error.errors()
    # Of a value that may be of two kinds, the mistake is the one that lies deeper in it.
    inner = (other for other in others if other["loc"][: len(first["loc"]) - 1] == first["loc"][:-1])
    first = max([first, *inner], key=lambda one: len(one["loc"]))
    parts = [str(part) for part in first["loc"] if not _KIND.match(str(part))]
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = list(known_keys()) + list(Config.model_fields)
        siblings = [name.rsplit(".", 1)[-1] for name in known if name.rsplit(".", 1)[0] == ".".join(parts[:-1])]
        hint = nearest(parts[-1], siblings or Config.model_fields) or nearest(key, known)
        return f"Unknown key {key!r} in {where}.{hint}"
    message = first["msg"].removeprefix("Value error, ")
    value = f", got {first['input']!r}" if key and not isinstance(first["input"], (dict, Section)) else ""
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key + ': ' if key else ''}{message}{value} (in {where}){more}."
