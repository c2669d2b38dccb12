"""The parameters of ``modparam("sipdump", ...)``: Kamailio's, with its defaults, and a few of ours.

Source: the documentation of Kamailio's sipdump module (5.6 for the first eight, 5.8 and newer for ``wait_mode``,
``fagex`` and ``parse_call_id``).
"""

import re

import attrs

from sipdump_core.settings.keeping import Rule, parse_rule
from sipdump_core.settings.options import Given, a_size, at_least, duration, in_range, one_of, option, permissions, size

__all__ = ["MODE_EVENT_ROUTE", "Params"]

MODE_EVENT_ROUTE = 2
"""The one mode flag that belongs to the core: run the event route. The others belong to drivers."""


_MAX = 2**31 - 1  # Kamailio's int
_NODE = re.compile(r"[A-Za-z0-9._-]{0,255}", re.ASCII)


def _prefix(value: str) -> str | None:
    if "/" in value or not value.isprintable() or len(value.encode()) > 200:
        return "must be a part of a file name: printable, no slash, at most 200 bytes"
    return None


def _node(value: str) -> str | None:
    if _NODE.fullmatch(value) and value not in (".", ".."):
        return None
    return "must consist of letters, digits, dot, dash and underscore, at most 255 of them"


def _fagex(value: str) -> str | None:
    try:
        return None if duration(value or "0s") <= _MAX else f"must be at most {_MAX} seconds"
    except ValueError as error:
        return str(error)


def _free(value: str) -> str | None:
    if value.endswith("%"):
        share = value[:-1]
        good = share.isascii() and share.isdigit() and int(share) < 100
        return None if good else 'must be a share of the file system, as "10%", or a size'
    return a_size(value)


@attrs.frozen
class Params:
    """The core's parameters, checked value by value; rules that concern several of them are checked at the start."""

    enable: int = option(0, help="store from the start (1), or wait for the enable command (0)", check=one_of(0, 1))
    mode: int = option(
        1,
        help="sum of the flags: 1 text, 2 event route, 4 pcap, 8 P-KSR-SIPDump header, others by installed drivers",
        check=at_least(0),
    )
    wait: int = option(
        100,
        unit="microseconds",
        help="with wait_mode 0, how long records gather before they are written; less than 20 ms counts as 20 ms",
        check=in_range(0, 10_000_000),
    )
    wait_mode: int = option(0, help="1: write at once when a record arrives, without gathering", check=one_of(0, 1))
    rotate: int = option(7200, unit="seconds", help="a segment is sealed when it is this old", check=in_range(1, _MAX))
    rotate_align: int = option(
        0, help="1: segments end when the local clock shows a multiple of rotate, as on the hour", check=one_of(0, 1)
    )
    rotate_size: int = option(
        0,
        unit="bytes",
        help="a segment is sealed before a file of it grows past this; 0: no limit",
        check=at_least(0),
    )
    rotate_records: int = option(
        0, unit="records", help="a segment is sealed when it holds this many; 0: no limit", check=at_least(0)
    )
    folder: str = option("/tmp", help="where the segment files are")  # noqa: S108 - Kamailio's default
    fprefix: str = option("kamailio-sipdump-", help="how the names of segment files begin", check=_prefix)
    fage: int = option(
        0, unit="seconds", help="sealed segments older than this are deleted; 0: never", check=in_range(0, _MAX)
    )
    fagex: str = option("", help='fage as a time expression, "2d6h40m30s"; it overrides fage', check=_fagex)
    keep: tuple[Given[Rule], ...] = option(
        (),
        help="a rule of retention, as method=REGISTER,OPTIONS age=3d, or state=failed age=180d; the first that matches "
        "a call counts",
        parse=parse_rule,
    )
    max_bytes: str = option(
        "",
        help='how much all files of the store may take with its spools, as "80G"; then the oldest segments go',
        check=a_size,
    )
    min_free: str = option(
        "",
        help='how much of the file system is to be free, as "10%" or "20G"; then the oldest segments go',
        check=_free,
    )
    event_callback: str = option("", help='the event route: "module:function" or "file.py:function"')
    parse_call_id: int = option(0, help="provide $sipdump(call_id) to the event route", check=one_of(0, 1))
    node: str = option(
        "", help="names this collector, for stores that several share; by default the host's name", check=_node
    )
    backend: tuple[str, ...] = option((), help="a backend or filter to switch on by name, in addition to those in mode")
    block: tuple[str, ...] = option(
        (), help="a driver, or a distribution, of which nothing is ever imported, whatever else is set"
    )
    load_timeout: int = option(
        10,
        unit="seconds",
        help="how long the import of a backend, and its constructor, may take before the others go on without it",
        check=in_range(1, 3600),
    )
    queue: int = option(
        8192,
        unit="records",
        help="how many records may wait for the writer, and for each backend",
        check=at_least(1),
    )
    queue_bytes: int = option(
        67108864,
        unit="bytes",
        help="how many bytes of messages may wait for the writer, and for each backend",
        check=at_least(1),
    )
    queue_full: str = option(
        "",
        help="what a source does when the queue is full: block or drop; "
        "by default the in-process API blocks and the daemon drops, with a count",
        check=one_of("", "block", "drop"),
    )
    sync: int = option(
        1,
        unit="seconds",
        help="between two fdatasync calls on the files that are being written; 0: left to the kernel",
        check=in_range(0, _MAX),
    )
    refuse_after: int = option(
        5,
        unit="tries",
        help="how often a batch is tried, and then each of its records, before a store that takes others is taken to "
        "refuse it; 0: for ever",
        check=in_range(0, 1000),
    )
    dead_max_bytes: int = option(
        1 << 28,
        unit="bytes",
        help="how much the dead letters (.dead, records that a store refuses) may have; what finds no room is dropped",
        check=at_least(0),
    )
    file_mode: int = option(
        0o640,
        unit="permission bits, 0640 is octal",
        help="mode of new segment files",
        check=permissions(),
    )

    @property
    def retention(self) -> int:
        """How many seconds a sealed segment is kept; 0: for ever."""
        return duration(self.fagex) if self.fagex else self.fage

    @property
    def cap(self) -> int:
        """How many bytes the store may take; 0: no limit."""
        return size(self.max_bytes or "0")

    @property
    def free(self) -> tuple[int, float]:
        """How many bytes, and which part, of the file system are to be free."""
        if self.min_free.endswith("%"):
            return 0, int(self.min_free[:-1]) / 100
        return size(self.min_free or "0"), 0.0

    @property
    def rules(self) -> list[Rule]:
        """The rules of retention, in their order."""
        return [each.value for each in self.keep]
