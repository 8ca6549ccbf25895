"""Configuration keys as flags: the full dotted name, its last part where that is unambiguous, and timm's own names."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from ood_nc.config import kinds_of, known_keys, parse_yaml
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
    table, keys = flag_keys(), known_keys()
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
        kinds = set() if field is None else kinds_of(field.annotation)
        if bool in kinds:
            overrides[key] = _switch(name, key, table, value if equals else _next_truth(words))
        elif not equals and (not words or _is_flag(words[0])):
            raise UserError(f"{name} needs a value, e.g. {name} {_EXAMPLES.get(key, 'VALUE')}.")
        elif kinds == {dict}:
            overrides.update(_mapping_values(name, key, [value] if equals else _take(words)))
        elif kinds & {list, tuple}:
            overrides[key] = _listed([value] if equals else _take(words), kinds)
        else:
            overrides[key] = _parse(value if equals else words.pop(0), kinds)
    return overrides, rest


_EXAMPLES = {"data.ood": "textures=/data/textures", "data.transfer": "flowers=/data/flowers"}


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word[1:2] not in tuple("0123456789.")


def _take(words: list[str]) -> list[str]:
    """The words up to the next flag, or up to a run directory, which is a command's own argument; one at least."""

    def ends(word: str) -> bool:
        return _is_flag(word) or (Path(word) / "config.yaml").is_file()

    taken = [words[0], *itertools.takewhile(lambda word: not ends(word), words[1:])]
    del words[: len(taken)]
    return taken


def _listed(taken: list[str], kinds: set[Any]) -> Any:
    """A list given as words, with commas between, or as YAML."""
    if len(taken) == 1 and ("," not in taken[0] or taken[0].startswith(("[", "{"))):
        value = _parse(taken[0], kinds)
        return [value] if type(value) in (int, float) else value
    return [_parse(part.strip(), kinds) for word in taken for part in word.split(",") if part.strip()]


def _next_truth(words: list[str]) -> str | None:
    return words.pop(0) if words and words[0].lower() in _TRUTH else None


def _switch(name: str, key: str, table: dict[str, str], value: str | None) -> Any:
    """A switch is on when it is named, off when its name has ``no-`` in front; or it is given its value."""
    off = _positive(name, table) is not None
    if value is None:
        return not off
    if off:
        raise UserError(f"{name} takes no value: it sets {key} to false.")
    return _parse(value, {bool})


def help_text() -> str:
    """The configuration keys with their flags, defaults and meaning, grouped by section."""
    flags: dict[str, list[str]] = {}
    for flag, key in flag_keys().items():
        flags.setdefault(key, []).append(flag)
    lines = [
        "configuration keys (in the file, or as flags):",
        "  (a list: words, or commas between; a mapping: NAME=VALUE beside the file's own entries, {} instead of them)",
    ]
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


def flag_keys() -> dict[str, str]:
    """Every spelling that the help shows, to its key. A last part that two keys share is neither's, unless claimed."""
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
    name = _positive(name, table) or name
    key = _spelled(name, table)
    if key is not None:
        return key
    bare = name.lstrip("-")
    for key, field in known_keys().items():
        if bare.startswith(f"{key}.") and dict in kinds_of(field.annotation):
            return bare
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    return bare if name.startswith("--") and "." in bare and bare.partition(".")[0] in sections else None


def _spelled(name: str, table: dict[str, str]) -> str | None:
    bare = name.lstrip("-")
    spellings = (name, f"--{bare.replace('_', '-')}", f"--{bare.replace('-', '_')}")
    return next((table[spelling] for spelling in spellings if spelling in table), None)


def _positive(name: str, table: dict[str, str]) -> str | None:
    """The switch that ``--no-NAME`` turns off; None where this is no such flag."""
    if not name.startswith("--no-") or _spelled(name, table) is not None:
        return None
    positive = "--" + name.removeprefix("--no-")
    key = _spelled(positive, table)
    return positive if key is not None and bool in kinds_of(known_keys()[key].annotation) else None


def _mapping_values(flag: str, key: str, pairs: list[str]) -> dict[str, Any]:
    """Entries given as NAME=VALUE beside those of the file, or after a mapping in YAML, which takes their place."""
    values: dict[str, Any] = {}
    for pair in pairs:
        if pair.startswith("{") and isinstance(whole := _parse(pair, set()), dict):
            values = {key: whole}
            continue
        name, equals, value = pair.partition("=")
        if not equals and key in _EXAMPLES:  # a source may go by its own name
            name, value = name_of(pair), pair
        if not name or not value:
            raise UserError(f"{flag} takes NAME=VALUE, or {{}} for none, got {pair!r}.")
        if f"{key}.{name}" in values:
            raise UserError(f"{flag}: two sets are called {name!r}: name them, e.g. {flag} first={value}.")
        values[f"{key}.{name}"] = value if key in _EXAMPLES else _parse(value, set())
    return values


def name_of(source: str) -> str:
    """What a data source is called without a name: its folder's, or its file's without the suffix."""
    return Path(source.partition("::")[0]).name.partition(".")[0]


def _parse(text: str, kinds: set[Any]) -> Any:
    """A flag's value; None is also taken as sweep agents and Python write it."""
    if str in kinds and not text.startswith(("{", "[")):
        return None if text.lower() in ("null", "~") else text
    try:
        return parse_yaml(text)
    except UserError:
        return text


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
