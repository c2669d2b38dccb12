"""The parser of a program with commands: each is loaded only when it is named, so that ``--help`` answers at once."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from sipdump_core.version import VERSION

__all__ = ["command_parser", "open_streams"]


def command_parser(
    prog: str, description: str, package: str, commands: Mapping[str, tuple[str, str]], argv: Sequence[str]
) -> argparse.ArgumentParser:
    """Return the parser for a command line: all commands are in it, and the arguments of the one that is named.

    Args:
        prog: the program's name.
        description: what it is for.
        package: the package with the commands' modules, in each of which ``add_NAME`` adds a command's arguments.
        commands: module and one-line help, by the command's name; a module of another package has a dot for each step
            up, as ``.viewing.terminal.command``.
        argv: the command line, without the program.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-v", "--version", action="version", version=f"sipdump {VERSION}")
    group = parser.add_subparsers(required=True, metavar="COMMAND")
    named = next((each for each in argv if not each.startswith("-")), "")
    for name, (module, help_) in commands.items():
        command = group.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        if name == named:
            getattr(import_module(f".{module}", package), f"add_{name.replace('-', '_')}")(command)
    return parser


def open_streams() -> None:
    """Lead standard output and standard error nowhere if they are closed, as a shell's ``>&-`` leaves them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open as long as the program runs
