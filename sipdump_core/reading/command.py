"""``sipdump-read``: finds calls in what is stored, shows them, and writes them out.

Each command is in a module for its group, which has two functions for it: ``add_NAME`` adds its arguments to a parser,
and ``NAME`` runs it. A module is loaded only when one of its commands is: ``--help`` must answer at once. So what
stands above this room, as viewing does, is named here and not imported.
"""

import io
import os
import sys
from collections.abc import Sequence

from sipdump_core.program import as_program
from sipdump_core.subcommands import command_parser, open_streams

__all__ = ["main"]

COMMANDS = {
    "find": ("find", "list the calls that match"),
    "show": ("show", "draw the ladder of a call"),
    "export": ("export", "write calls to a file: pcap, pcapng, .data, Parquet, JSON lines, HTML"),
    "tail": ("tail", "print messages as they arrive, one line each"),
    "stats": ("stats", "count messages and calls, and measure response times"),
    "sql": ("sql", "query messages and calls in SQL, with DuckDB"),
    "tui": (".viewing.terminal.command", "look at calls in the terminal, and watch them come"),
    "web": (".viewing.web.command", "show calls on a page for a browser on this machine"),
}
"""The module and the one-line help of each command."""
FOUND, NOTHING, WRONG = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; None: those of this process, which ends afterwards.

    Returns:
        0 when something was found, 1 when nothing was, or not all could be read, 2 for wrong use.
    """
    if argv is None:
        return as_program("sipdump-read", lambda: main(sys.argv[1:]))
    from sipdump_core.errors import ConfigError, SipDumpError  # noqa: PLC0415 - see the module's docstring
    from sipdump_core.log import KEPT, escaped  # noqa: PLC0415

    try:
        return _run(argv)
    except BrokenPipeError:
        # the reader went away, as head(1) does; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except ConfigError as error:
        print(f"sipdump-read: {escaped(str(error), KEPT)}", file=sys.stderr)
        return WRONG
    except (SipDumpError, OSError) as error:
        print(f"sipdump-read: {escaped(str(error), KEPT)}", file=sys.stderr)
        return NOTHING
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    from sipdump_core.reading.dashes import join_dashes  # noqa: PLC0415 - see the module's docstring

    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale, no character of a message ends the command
            stream.reconfigure(errors="backslashreplace")
    argv = join_dashes(argv)
    parser = command_parser(
        "sipdump-read", "Find calls in what sipdump has stored.", "sipdump_core.reading", COMMANDS, argv
    )
    args = parser.parse_args(argv)
    return int(args.run(args))
