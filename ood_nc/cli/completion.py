"""``ood-nc --print-completion SHELL``: a script that completes commands, options and configuration keys.

Written once and read by the shell alone, so a key press starts no Python (to import the commands takes longer than a
finger waits).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import shtab

from ood_nc.cli import flags
from ood_nc.config import known_keys
from ood_nc.errors import UserError


def script(shell: str, parser: argparse.ArgumentParser, configured: Iterable[argparse.ArgumentParser]) -> str:
    """The completion script.

    Args:
        shell: bash, zsh, or another that shtab knows.
        parser: the whole command line.
        configured: the parsers of the commands that take keys of the configuration as flags.

    Raises:
        UserError: another shell.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError(f"No completion for {shell!r}: there is {', '.join(shtab.SUPPORTED_SHELLS)}.")
    for subparser in configured:
        for name, key in flags.flag_keys().items():
            if name not in subparser._option_string_actions:
                subparser.add_argument(name, dest=key, help=known_keys()[key].description)
    for action in (action for one in (parser, *_below(parser)) for action in one._actions):
        if action.type is Path or action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [subparser for group in groups for subparser in group.choices.values()]
