"""``sipdump-read show``: the ladder of a call, in a terminal, or as a file for a browser."""

import argparse
import os
import shutil
import sys

from sipdump_core.calls.ladder import lay_out
from sipdump_core.errors import ConfigError
from sipdump_core.reading.arguments import add_legs, add_store, rules_of
from sipdump_core.reading.files import refuse_old, write_new
from sipdump_core.reading.lines import counted
from sipdump_core.reading.render.formats import FORMATS, Style, render
from sipdump_core.reading.session import Session

__all__ = ["add_show", "names_of", "show"]

_NARROWEST = 80
_PIPE_WIDTH = 120


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``show``."""
    parser.usage = "%(prog)s CALL-ID [STORE] [--legs] [--headers | --raw] [--format FORMAT] [-o FILE]"
    parser.add_argument("call_id", metavar="CALL-ID", help="the call")
    add_store(parser)
    add_legs(parser)
    parser.add_argument("--legs", action="store_true", help="draw the other legs of the call too")
    messages = parser.add_mutually_exclusive_group()
    messages.add_argument("--headers", action="store_const", dest="messages", const="headers", default="",
                          help="also print the headers of each message")  # fmt: skip
    messages.add_argument(
        "--raw", action="store_const", dest="messages", const="raw", help="also print each message in full"
    )
    help_name = "a name for an address, as 10.0.0.5=proxy"
    parser.add_argument("--name", dest="names", action="append", default=[], metavar="ADDRESS=NAME", help=help_name)
    parser.add_argument("--format", dest="form", choices=FORMATS, help="default: by the ending of FILE, else text")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of text, at least 80 (default: the terminal's)")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write to FILE, which must not exist yet")
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    """Draw the ladder of a call."""
    names = names_of(args.names)
    form = args.form or _form_of(args.output)
    if args.output:
        refuse_old(args.output)
    with Session(args, rules_of(args)) as session:
        found = list(session.shown(session.store.call(args.call_id, session.searched)))
        if not found:
            return session.report(False)
        drawn = found if args.legs else found[:1]
        ladder = lay_out(
            [one.call for one in drawn],
            names=names,
            summaries=[one.summary for one in drawn],
            notes=session.searched.notes,
        )
        terminal = not args.output and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else _PIPE_WIDTH
        colour = terminal and not os.environ.get("NO_COLOR")
        text = render(ladder, form, Style(max(args.width or width, _NARROWEST), colour, args.messages))
        if args.output:
            write_new(args.output, text.encode("utf-8", "surrogateescape"))
        else:
            sys.stdout.write(text)
        session.searched.notes.clear()  # the ladder has them
        legs = len(found[0].legs)
        if legs and not args.legs:
            session.searched.note(f"{counted(legs, 'other leg belongs', 'other legs belong')} to this call: --legs")
        return session.report(True)


def names_of(values: list[str]) -> dict[str, str]:
    """Read names for addresses, as ``10.0.0.5=proxy`` or ``10.0.0.5:5060=proxy``.

    Raises:
        ConfigError: a value is not of that form.
    """
    names = {}
    for value in values:
        address, equals, name = value.partition("=")
        if not (address and equals and name):
            raise ConfigError(f'{value!r} does not name an address: write it as "10.0.0.5=proxy"', "--name")
        names[address] = name
    return names


def _form_of(output: str | None) -> str:
    ending = os.path.splitext(output or "")[1].lower()
    if ending in (".pcap", ".pcapng", ".data", ".parquet", ".jsonl"):
        raise ConfigError(
            f"a ladder cannot be a {ending} file; to write the messages into one, use sipdump-read export", "-o"
        )
    return {".svg": "svg", ".html": "html", ".htm": "html", ".mmd": "mermaid", ".json": "json", ".md": "markdown"}.get(
        ending, "text"
    )
