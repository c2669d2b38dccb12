"""``sipdump-read tui``: looks at calls in the terminal, and watches them come."""

import argparse
import os
import sys

from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.reading.arguments import add_filters, add_legs, add_store, whole_number
from sipdump_core.reading.show import names_of
from sipdump_core.viewing.extras import need

__all__ = ["add_tui", "tui"]


def add_tui(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``tui``."""
    parser.usage = "%(prog)s [STORE] [FILTERS] [--sort COLUMN] [--columns COLUMN,...] [--limit N]"
    add_store(parser)
    add_filters(parser)
    add_legs(parser)
    parser.add_argument("--sort", metavar="COLUMN", help="sort by it; -COLUMN: descending (default: -began)")
    parser.add_argument("--columns", metavar="COLUMN,...", help="the columns of the list")
    parser.add_argument(
        "--limit", type=whole_number, metavar="N", help="list at most N calls, the newest; 0: all (default: 20000)"
    )
    help_name = "a name for an address, as 10.0.0.5=proxy"
    parser.add_argument("--name", dest="names", action="append", default=[], metavar="ADDRESS=NAME", help=help_name)
    parser.set_defaults(run=tui)


def tui(args: argparse.Namespace) -> int:
    """Show calls, until the viewer quits."""
    need("tui", "tui", ["textual"])
    _check_terminal()
    names = names_of(args.names)
    # the reader loads the store while textual is loaded here
    from sipdump_core.viewing.terminal.desk import Desk  # noqa: PLC0415 - not before the terminal is known to be one
    from sipdump_core.viewing.terminal.wire import Options  # noqa: PLC0415

    store = {
        "configs": args.configs,
        "defines": args.defines,
        "folders": args.folders,
        "fprefix": args.fprefix,
        "files": args.files,
        "urls": args.urls,
    }
    desk = Desk(Options(store, names, args.redact, args.users_keys))
    try:
        from sipdump_core.viewing.terminal.app import Terminal  # noqa: PLC0415 - textual may not be installed
        from sipdump_core.viewing.terminal.board import Board  # noqa: PLC0415
        from sipdump_core.viewing.words import Search  # noqa: PLC0415

        looks = [(name, value) for name in ("sort", "columns", "limit") if (value := getattr(args, name)) is not None]
        search = Search([*Search.from_args(args).words, *((name, str(value)) for name, value in looks)])
        board = Board(desk, search, _place(args))
        search.query(board.now())
        board.seek(search)
        app = Terminal(board)
        app.run()
    finally:
        desk.close()
    if board.broken and board.broken.wrong:
        raise ConfigError(board.broken.error)
    if board.broken:
        raise StorageError("read", "the store", board.broken.error)
    return app.return_code or 0


def _check_terminal() -> None:
    """See to it that there is a terminal, and that it can move its cursor.

    Raises:
        ConfigError: there is none.
    """
    if not (sys.__stdin__ and sys.__stderr__ and sys.__stdin__.isatty() and sys.__stderr__.isatty()):
        raise ConfigError("tui needs a terminal: standard input and standard error must not be redirected; see find")
    name = os.environ.get("TERM", "")
    if name in ("", "dumb", "unknown"):
        raise ConfigError(f"tui needs a terminal that can move its cursor, and TERM is {name!r}; see find")
    if os.environ.get("NO_COLOR") == "":
        del os.environ["NO_COLOR"]  # empty, it means nothing (no-color.org)


def _place(args: argparse.Namespace) -> str:
    """Return what is read, for the title."""
    named = [*args.configs, *args.folders, *args.files, *args.urls]
    return ", ".join(named) or "/etc/sipdump/sipdumpd.cfg"
