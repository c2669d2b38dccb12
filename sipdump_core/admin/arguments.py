"""Arguments that several commands have."""

import argparse

__all__ = ["add_config", "add_json", "add_store"]


def add_config(parser: argparse.ArgumentParser, help_: str = "the daemon's configuration") -> None:
    """Add ``-f`` and ``-A``."""
    parser.add_argument("-f", dest="config", metavar="FILE", help=help_)
    parser.add_argument(
        "-A",
        dest="defines",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="define NAME for the configuration, as the daemon's option does",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add what says where the segments are: a configuration, or a folder and a prefix."""
    add_config(parser)
    parser.add_argument("--folder", help='where the segments are (default: the configuration\'s, or "/tmp")')
    parser.add_argument(
        "--fprefix", help='how their names begin (default: the configuration\'s, or "kamailio-sipdump-")'
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
