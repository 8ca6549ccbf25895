"""Configuration keys as flags: the full dotted name, its last part where that is unambiguous, and timm's own names."""

from __future__ import annotations

import typing
from collections import Counter
from typing import Any

import yaml

from ood_nc.config import known_keys
from ood_nc.errors import UserError

_TRUTH = {"true", "false", "yes", "no", "on", "off", "1", "0"}


def split(argv: list[str], reserved: set[str]) -> tuple[dict[str, Any], list[str]]:
    """Separate configuration flags from a command's own.

    Args:
        argv: the words after the command's name.
        reserved: option strings that the command itself defines; they are left alone.

    Returns:
        The overrides (dotted key to value) and the remaining words.

    Raises:
        UserError: a flag without its value.
    """
    table, keys = _table(), known_keys()
    overrides: dict[str, Any] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        name, equals, value = word.partition("=")
        key = None if name in reserved or not name.startswith("-") else _key_of(name, table)
        if key is None:
            rest.append(word)
            continue
        field = keys.get(key)
        if field is not None and _is_mapping(field.annotation):
            pairs = [value] if equals else []
            while not equals and words and "=" in words[0] and not words[0].startswith("-"):
                pairs.append(words.pop(0))
            if not equals and not pairs and words and not words[0].startswith("-"):
                pairs.append(words.pop(0))
            overrides.update(_mapping_values(name, key, pairs))
        elif equals:
            overrides[key] = _parse(value, field)
        elif field is not None and field.annotation is bool:
            explicit = words and words[0].lower() in _TRUTH
            overrides[key] = _parse(words.pop(0), field) if explicit else True
        elif not words:
            raise UserError(f"{name} needs a value, e.g. {name}=VALUE.")
        else:
            overrides[key] = _parse(words.pop(0), field)
    return overrides, rest


def names() -> list[str]:
    """Every spelling of a configuration flag that the help shows."""
    return sorted(_table())


def help_text() -> str:
    """The configuration keys with their flags, defaults and meaning, grouped by section."""
    flags: dict[str, list[str]] = {}
    for flag, key in _table().items():
        flags.setdefault(key, []).append(flag)
    lines = ["configuration keys (in the file, or as flags):"]
    section = None
    for key, field in known_keys().items():
        head = key.rpartition(".")[0]
        if head != section:
            section = head
            lines.append(f"  {head or 'top level'}")
        short = [flag for flag in flags[key] if flag != f"--{key}"]
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None else f" [{_short(default)}]"
        lines.append(f"    --{key:<34} {field.description}{shown}{'  (' + ', '.join(short) + ')' if short else ''}")
    return "\n".join(lines)


def _table() -> dict[str, str]:
    """Flag to key. A last part that two keys share stands for neither, unless one claims it."""
    keys = known_keys()
    last = Counter(key.rpartition(".")[2] for key in keys)
    table: dict[str, str] = {}
    for key in keys:
        table[f"--{key}"] = key
        name = key.rpartition(".")[2]
        if last[name] == 1:
            table[f"--{name.replace('_', '-')}"] = key
    for key, field in keys.items():
        for flag in (field.json_schema_extra or {}).get("flags", []):
            table[flag] = key
    return table


def _key_of(name: str, table: dict[str, str]) -> str | None:
    if name in table:
        return table[name]
    bare = name.lstrip("-")
    for spelling in (f"--{bare.replace('_', '-')}", f"--{bare.replace('-', '_')}"):
        if spelling in table:
            return table[spelling]
    for key, field in known_keys().items():
        if bare.startswith(f"{key}.") and _is_mapping(field.annotation):
            return bare
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    return bare if name.startswith("--") and "." in bare and bare.partition(".")[0] in sections else None


def _is_mapping(kind: Any) -> bool:
    return kind is dict or typing.get_origin(kind) is dict


def _mapping_values(flag: str, key: str, pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise UserError(f"{flag} takes NAME=VALUE, got {pair!r}.")
        values[f"{key}.{name}"] = value if key in ("data.ood", "data.transfer") else yaml.safe_load(value)
    if not values:
        raise UserError(f"{flag} takes NAME=VALUE, e.g. {flag} textures=/data/textures.")
    return values


def _parse(text: str, field: Any) -> Any:
    if field is not None and _takes_text(field.annotation) and not text.startswith(("{", "[")):
        return None if text.lower() in ("null", "~") else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _takes_text(kind: Any) -> bool:
    return kind is str or str in typing.get_args(kind)


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
