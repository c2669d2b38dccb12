"""``sipdump-admin``: what an operator does beside the daemon: prune, list, recover, compact, backends...

Each command is in a module for its group, which has two functions for it: ``add_NAME`` adds its arguments to a parser,
and ``NAME`` runs it. A module is loaded only when one of its commands is: ``--help`` must answer at once.
"""

import sys
from collections.abc import Sequence

from sipdump_core.admin.output import Output
from sipdump_core.errors import SipDumpError
from sipdump_core.program import as_program
from sipdump_core.subcommands import command_parser, open_streams

__all__ = ["main"]

COMMANDS = {
    "prune": ("upkeep", "delete sealed segments that are too old"),
    "ship": ("upkeep", "upload what waits in a spool"),
    "recover": ("upkeep", "make segments of what a crash left"),
    "compact": ("upkeep", "merge small segments of an hour into one"),
    "list": ("upkeep", "list the segments of every backend"),
    "erase": ("erasing", "take calls out of all that is stored, or mask them"),
    "hold": ("erasing", "keep calls, as for a court, whatever retention says: add, list, release"),
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

    Args:
        argv: the arguments; None: those of this process, which ends afterwards.

    Returns:
        0 when all was done, 1 when something was not, 2 for a wrong command line, 130 after Ctrl-C.
    """
    if argv is None:
        return as_program("sipdump-admin", lambda: main(sys.argv[1:]))
    open_streams()
    try:
        parser = command_parser(
            "sipdump-admin", "Look after what sipdump has stored.", "sipdump_core.admin", COMMANDS, argv
        )
        args = parser.parse_args(argv)
        return int(args.run(args, Output(getattr(args, "json", False))))
    except SipDumpError as error:
        Output().error(error)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as head(1) does
        return 1
    except KeyboardInterrupt:
        print("sipdump-admin: interrupted: what was done so far stays", file=sys.stderr)
        return 130
