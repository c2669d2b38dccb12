"""``sipdump-admin``: what an operator does beside the daemon: prune, list, recover, compact, backends...

Each command is in a module for its group, which has two functions for it: ``add_NAME`` adds its arguments to a parser,
and ``NAME`` runs it. A module is loaded only when one of its commands is: ``--help`` must answer at once.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from sipdump_core.admin.output import Output
from sipdump_core.errors import SipDumpError
from sipdump_core.version import VERSION

__all__ = ["main"]

COMMANDS = {
    "prune": ("upkeep", "delete sealed segments that are too old"),
    "ship": ("upkeep", "upload what waits in a spool"),
    "recover": ("upkeep", "make segments of what a crash left"),
    "compact": ("upkeep", "merge small segments of an hour into one"),
    "list": ("upkeep", "list the segments of every backend"),
    "import": ("importing", "store the messages of other files: captures, .data, Parquet"),
    "enable": ("daemon", "ask whether the daemon stores, or set it"),
    "rpc": ("daemon", "send the daemon a control command"),
    "send": ("send", "send a test message to the daemon, and check that it arrives"),
    "backends": ("daemon", "list the installed drivers; with -f or --socket, how a daemon's do"),
    "new-backend": ("scaffold", "write a small distribution with a backend, as a start for your own"),
}
"""The module and the one-line help of each command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all was done, 1 when something was not, 2 for a wrong command line.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    try:
        return int(args.run(args, Output(getattr(args, "json", False))))
    except SipDumpError as error:
        print(f"sipdump-admin: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as head(1) does
        return 1


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for a command line: all commands are in it, and the arguments of the one that is named."""
    parser = argparse.ArgumentParser(prog="sipdump-admin", description="Look after what sipdump has stored.")
    parser.add_argument("-v", "--version", action="version", version=f"sipdump {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = next((each for each in argv if not each.startswith("-")), "")
    for name, (module, help_) in COMMANDS.items():
        command = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        if name == named:
            add = getattr(import_module(f"sipdump_core.admin.{module}"), f"add_{name.replace('-', '_')}")
            add(command)
    return parser
