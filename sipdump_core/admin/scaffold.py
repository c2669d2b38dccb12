"""``sipdump-admin new-backend``."""

import argparse
import shlex
from pathlib import Path

from sipdump_core.admin.output import Output
from sipdump_core.scaffold.project import KINDS, write

__all__ = ["add_new_backend", "new_backend"]


def add_new_backend(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("name", metavar="NAME", help="the backend's name; the distribution is sipdump-NAME")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="file",
        help="file: segment files in a folder (default); stream: a database, a queue, whatever is connected to; "
        "filter: rewrites or drops messages before all backends",
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="the folder for its files (default: sipdump-NAME)")
    parser.set_defaults(run=new_backend)


def new_backend(args: argparse.Namespace, output: Output) -> int:
    """Write a distribution, and say how to try it."""
    folder = args.dir or Path(f"sipdump-{args.name}")
    for path in write(args.name, args.kind, folder):
        output.say(f"wrote {folder / path}")
    output.say(f"try it: cd {shlex.quote(str(folder))} && python3 -m pip install -e '.[dev]' && python3 -m pytest")
    return int(output.failed)
