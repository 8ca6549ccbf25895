"""A sweep file in the format of W&B: what it tries, and the command of each trial."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_nc.config import parse_yaml
from ood_nc.errors import UserError, nearest

Setting = dict[str, Any]

_KEYS = ("name", "description", "project", "entity", "program", "method", "metric", "parameters", "command", "run_cap")
_FILLED = {"${env}": ["/usr/bin/env"], "${interpreter}": ["python"]}


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        name: of the sweep and its folder.
        varied: the keys that may have more than one value, in the file's order.
        settings: the value of each key, a mapping a trial.
        command: the words after ``ood-nc``; ``${args}`` stands for a setting's flags.
    """

    name: str
    varied: list[str]
    settings: list[Setting]
    command: list[str]

    def words(self, setting: Setting) -> list[str]:
        """The words of a trial after ``ood-nc``, its flags as a W&B agent writes them."""
        flags = [f"--{key}={value}" for key, value in setting.items()]
        return [word for part in self.command for word in (flags if part == "${args}" else [part])]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        UserError: it cannot be read, or asks for what is not done here: a Bayesian search, early termination, nested
            parameters, a command that is not ``ood-nc run``.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"Cannot read the sweep {path}: {error}.") from None
    if not isinstance(values, dict) or not isinstance(values.get("parameters"), dict) or not values["parameters"]:
        raise UserError(f"{path} is no sweep: it needs a method and parameters, as W&B has them.")
    unknown = next((key for key in values if key not in _KEYS), None)
    if unknown is not None:
        raise UserError(f"{path}: {unknown!r} is not done without W&B.{nearest(str(unknown), _KEYS)}")
    parameters = {str(key): _parameter(f"{path}, {key}", entry) for key, entry in values["parameters"].items()}
    method, cap = values.get("method"), values.get("run_cap")
    if cap is not None and not (type(cap) is int and cap >= 1):
        raise UserError(f"{path}: run_cap is how many runs are made, a whole number from 1, got {cap!r}.")
    if method == "grid":
        settings = _grid(path, parameters)
    elif method == "random" and cap is not None:
        settings = _random(path, parameters, cap)
    elif method == "random":
        raise UserError(f"{path}: a random search needs run_cap, how many runs it makes.")
    else:
        raise UserError(f"{path}: method {method!r} is not done without W&B: use grid or random, or wandb agent.")
    varied = [key for key, entry in parameters.items() if "value" not in entry]
    return Sweep(str(values.get("name") or path.stem), varied, settings[:cap], _command(path, values))


def _parameter(where: str, entry: Any) -> Setting:
    if not isinstance(entry, Mapping) or not entry:
        raise UserError(f"{where}: a parameter has value, values, or min and max.")
    if "parameters" in entry:
        raise UserError(f"{where}: write nested parameters as dotted keys, e.g. optim.lr.")
    if "values" in entry and not (isinstance(entry["values"], list) and entry["values"]):
        raise UserError(f"{where}: values is a list of at least one.")
    bounds: list[Any] = [entry.get("min"), entry.get("max")]
    if not {"value", "values", "mu"} & entry.keys():
        if not all(_is_number(end) for end in bounds):
            raise UserError(
                f"{where}: a parameter has value, values, or numbers as min and max (1.0e-5: YAML reads 1e-5 as text)."
            )
        if bounds[0] > bounds[1]:
            raise UserError(f"{where}: min is {bounds[0]}, more than max, which is {bounds[1]}.")
    return dict(entry)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _grid(path: Path, parameters: Mapping[str, Setting]) -> list[Setting]:
    axes = []
    for key, entry in parameters.items():
        if "value" in entry or "values" in entry:
            axes.append([entry["value"]] if "value" in entry else entry["values"])
        elif isinstance(entry.get("min"), int) and isinstance(entry.get("max"), int):
            axes.append(list(range(entry["min"], entry["max"] + 1)))
        else:
            raise UserError(f"{path}, {key}: a grid needs values, or whole numbers as min and max.")
    return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*axes)]


def _random(path: Path, parameters: Mapping[str, Setting], count: int) -> list[Setting]:
    """Trials from a fixed seed, so that a sweep that goes on asks for the same ones."""

    def drawn(key: str, entry: Setting) -> Any:
        try:
            return _draw(f"{path}, {key}", entry, generator)
        except UserError:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:  # a logarithm of 0, a width that is text
            raise UserError(f"{path}, {key}: no value can be drawn by what is given ({error}).") from None

    generator = random.Random(0)
    return [{key: drawn(key, entry) for key, entry in parameters.items()} for _ in range(count)]


def _draw(where: str, entry: Setting, generator: random.Random) -> Any:
    """A value by W&B's distribution; without one, by the kind of the ends."""
    if "value" in entry:
        return entry["value"]
    if "values" in entry:
        weights = entry.get("probabilities")
        return generator.choices(entry["values"], weights)[0]
    whole = all(isinstance(entry.get(end), int) for end in ("min", "max"))
    name = str(entry.get("distribution") or ("int_uniform" if whole else "uniform"))
    kind, step = name.removeprefix("q_"), entry.get("q", 1) if name.startswith("q_") else None
    low: Any = entry.get("min")
    high: Any = entry.get("max")
    if kind == "int_uniform":
        return generator.randint(low, high)
    if kind == "uniform":
        value = generator.uniform(low, high)
    elif kind == "log_uniform":
        value = math.exp(generator.uniform(low, high))
    elif kind == "log_uniform_values":
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
    elif kind in ("normal", "log_normal"):
        drawn = generator.gauss(entry.get("mu", 0.0), entry.get("sigma", 1.0))
        value = drawn if kind == "normal" else math.exp(drawn)
    else:
        raise UserError(f"{where}: distribution {name!r} is not done without W&B: use uniform or log_uniform_values.")
    return value if step is None else round(value / step) * step


def _command(path: Path, values: Mapping[str, Any]) -> list[str]:
    """The words after ``ood-nc``, from W&B's command and its macros."""
    parts = values.get("command") or ["${env}", "${interpreter}", "${program}", "${args}"]
    filled = {**_FILLED, "${program}": [str(values.get("program", ""))]}
    words = [word for part in parts for word in filled.get(str(part), [str(part)])]
    words = words[1:] if words[:1] == ["/usr/bin/env"] else words
    for start in (["ood-nc"], ["python", "-m", "ood_nc"]):
        if words[: len(start) + 1] == [*start, "run"]:
            words = words[len(start) :]
            break
    else:
        raise UserError(f"{path}: its command must be ood-nc run ... ${{args}}, got {' '.join(words)!r}.")
    if "seeds" in values["parameters"] or any(word.partition("=")[0] == "--seeds" for word in words):
        raise UserError(f"{path}: a trial is one run; in place of --seeds vary train.seed: {{values: [0, 1, 2]}}.")
    other = next((word for word in words if re.match(r"\$\{(?!args\})", word)), None)
    if other is not None or "${args}" not in words:
        raise UserError(f"{path}: the command takes its parameters as ${{args}}{f', not {other}' if other else ''}.")
    return words
