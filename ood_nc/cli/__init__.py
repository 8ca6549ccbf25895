"""The ``ood-nc`` command. Exit codes: 0 done, 1 a fault of ours, 2 a mistake of the user's, 130 interrupted."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from ood_nc.cli import (
    compare,
    doctor,
    evaluate,
    explain,
    figures,
    fit,
    flags,
    listing,
    private_head,
    quickstart,
    report,
    retrofit,
    score,
    suites,
    sweep,
    train,
)
from ood_nc.errors import UserError, nearest
from ood_nc.processes import is_main_process
from ood_nc.stopping import termination_interrupts

__all__ = ["main"]

_COMMANDS = {
    command.name: command
    for command in (
        quickstart.COMMAND,
        train.TRAIN,
        evaluate.COMMAND,
        train.RUN,
        report.COMMAND,
        compare.COMMAND,
        figures.COMMAND,
        sweep.COMMAND,
        fit.COMMAND,
        private_head.COMMAND,
        retrofit.COMMAND,
        score.SCORE,
        explain.COMMAND,
        score.EXPORT,
        suites.COMMAND,
        listing.COMMAND,
        doctor.COMMAND,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one line, a traceback only under ``--debug``."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    came: list[int] = []
    try:
        with termination_interrupts(came):
            return _run(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt as interrupt:
        _say(f"interrupted. {interrupt}".rstrip(), debug)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if came and not isinstance(error, UserError):  # a library has made an error of the interrupt
            _say("interrupted.", debug)
            return 130
        return _failed(error, debug)


def _failed(error: Exception, debug: bool) -> int:
    if isinstance(error, UserError):
        _say(str(error), debug)
        return 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _say(f"no space left on the disk ({error.filename or 'output'}): free some, then run it again.", debug)
        return 2
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        _say(f"{error.filename!s:.60}...: no file can have a name that long. Check the path.", debug)
        return 2
    text = " ".join(str(error).split())
    _say(f"fault: {type(error).__name__}: {text}. Run again with --debug for the traceback.", debug)
    return 1


def _run(words: list[str]) -> int:
    position = next((index for index, word in enumerate(words) if not word.startswith("-")), None)
    name = None if position is None else words[position]
    parser, subparsers = _parsers({name})
    if position is None or name not in _COMMANDS:
        parser.parse_args(words)  # --help, --version, or what is wrong with the command's name
        parser.print_help()
        return 2
    command, subparser = _COMMANDS[name], subparsers[name]
    rest = words[:position] + words[position + 1 :]
    overrides: dict[str, Any] = {}
    if command.takes_config:
        overrides, rest = flags.split(rest, set(_options(subparser)))
    arguments = subparser.parse_args(rest)
    arguments.overrides = overrides
    _settle(arguments.quiet, arguments.debug)
    return command.execute(arguments)


def _parsers(wanted: Collection[str | None]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the first word, and those of the commands; only the wanted ones have options and examples."""
    parser = _Parser(
        prog="ood-nc",
        description="Control neural collapse layer by layer; measure collapse, OOD detection and transfer of each.",
        epilog="ood-nc COMMAND --help shows a command's options with examples. Start with: ood-nc quickstart",
    )
    parser.add_argument("--version", action=_Version, help="versions of this package and of what it stands on")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        metavar="SHELL",
        help="a script that completes commands and flags in bash or zsh",
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND")
    subparsers: dict[str, argparse.ArgumentParser] = {}
    for name, command in _COMMANDS.items():
        subparsers[name] = subparser = group.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name in wanted:
            command.add_arguments(subparser)
            subparser.add_argument("--quiet", action="store_true", help="no progress bars, no notes")
            subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
            keys = f"\n\n{flags.help_text()}" if command.takes_config else ""
            subparser.epilog = f"examples:\n{command.examples}{keys}"
    return parser, subparsers


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake and the nearest known name."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            unknown = message.partition(": ")[2].split()[0]
            command = _COMMANDS.get(self.prog.rpartition(" ")[2])
            known = _options(self) + (list(flags.flag_keys()) if command and command.takes_config else [])
            raise UserError(f"unknown argument {unknown!r} of {self.prog}.{nearest(unknown.partition('=')[0], known)}")
        if "invalid choice" in message and "COMMAND" in message:
            name = message.partition("invalid choice: ")[2].split(" ")[0].strip("'")
            raise UserError(f"unknown command {name!r}.{nearest(name, _COMMANDS)} Commands: {', '.join(_COMMANDS)}.")
        raise UserError(f"{message} (see {self.prog} --help).")


class _Version(argparse.Action):
    """``--version``, with the faiss wheel that is installed."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version

        from ood_nc import __version__
        from ood_nc.detection import faiss_variant

        parts = [f"{name} {version(name)}" for name in ("torch", "timm", "accelerate", "scikit-learn", "wandb")]
        print(f"ood_nc {__version__}, Python {sys.version.split()[0]}, {', '.join(parts)}, {faiss_variant()}")
        raise SystemExit(0)


class _Completion(argparse.Action):
    """``--print-completion SHELL``."""

    def __call__(self, parser: object, namespace: object, values: object, option_string: object = None) -> NoReturn:
        from ood_nc.cli.completion import script

        whole, subparsers = _parsers(_COMMANDS)
        print(script(str(values), whole, [subparsers[name] for name in _COMMANDS if _COMMANDS[name].takes_config]))
        raise SystemExit(0)


def _settle(quiet: bool, debug: bool) -> None:
    quiet = quiet or not is_main_process()
    os.environ["OOD_NC_QUIET"] = "1" if quiet else "0"
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("ood_nc").setLevel(level)
    if not debug:
        warnings.simplefilter("ignore")


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if is_main_process():
        # One line, whatever names in it hold.
        print(f"ood-nc: {' '.join(message.splitlines())}", file=sys.stderr)
