"""What a backend promises that answers questions, is followed, or merges its segments: each where it can do that."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Ability, Compacts, Follows, Searches, Unites, can
from sipdump_core.drivers.query import Query, parse_endpoint, parse_grep, parse_status
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import does_not_apply, promise
from sipdump_core.testing.samples import MESSAGES, numbered, record, with_body

__all__ = ["SearchChecks"]

_START_US = 1_795_386_431_000_000
_LONG = "x" * 4000 + "@" + "y" * 95
_CALL_IDS = {
    b"plain@192.0.2.1": "plain@192.0.2.1",
    b"plain@192.0.2.10": "plain@192.0.2.10",
    b"PLAIN@192.0.2.1": "PLAIN@192.0.2.1",
    b"\xff\xe9\x80@\xc3\xa9": "\\xff\\xe9\\x80@é",
    b"backslash\\n@x": "backslash\\n@x",
    b"folded\r\n\t value": "folded value",
    b"nul\0@x": "nul\0@x",
    b"'; DROP %_*?[x]": "'; DROP %_*?[x]",
    _LONG.encode(): _LONG,
}
"""Call-IDs as they are in a message, and as they are asked for."""
_END = b"Subject: %b\r\nContent-Length: 0\r\n\r\n" % (b"." * 200)
"""What a message ends with; long, so that a few thousand are more than is read at once."""


class SearchChecks(Kit):
    """The checks of searching, following and merging."""

    @promise
    def test_search_finds_what_reading_finds(self, backend: Backend) -> None:
        """search() yields exactly the records of a segment that match, those of one Call-ID in read()'s order."""
        if not _able(backend, Searches):
            does_not_apply("the backend has no search(): its segments are read, and filtered")
        first = _records()
        inner = b"".join(_content(self.store(backend, [one], second=n)) for n, one in enumerate(first[:3]))
        stored = self.store(backend, first, [record(with_body(inner[:60_000])), *first[:50]], second=5)
        reader: Any = self.reader(backend)
        there = self.read(reader, stored)
        for query in _queries(first):
            self.finds(reader, stored, query, there)

    @promise
    def test_search_sees_an_open_segment(self, backend: Backend) -> None:
        """search() finds what was written before flush() while the segment is open, and each record once."""
        if not _able(backend, Searches):
            does_not_apply("the backend has no search(): its segments are read, and filtered")
        self.needs_segments(backend)
        backend.open(self.segment(backend))
        reader: Any = self.reader(backend)
        for n in range(3):
            backend.write(Batch([_called("open@x", n), *numbered(20, 20 * n)]))
            backend.flush()
            (stored,) = self.segments(reader)
            found = _drain(reader, stored, Query(call_ids=["open@x"]))
            self.same(backend, [_called("open@x", each) for each in range(n + 1)], found)
            self.finds(reader, stored, Query(since_us=numbered(1, 5)[0].time_us))

    @promise
    def test_asking_what_is_gone_is_a_storage_error(self, backend: Backend) -> None:
        """Searching or following a segment that was deleted raises StorageError."""
        if not (_able(backend, Searches) or _able(backend, Follows)):
            does_not_apply("the backend has no search() and no follow()")
        stored = self.store(backend, numbered(5))
        backend.delete(stored)
        reader: Any = self.reader(backend)
        if _able(backend, Searches):
            for query in (Query(call_ids=["c1@192.0.2.1"]), Query(since_us=1)):
                search = partial(_drain, reader, stored, query)
                assert self.raises_storage_error(search), "search() raises nothing"
        if _able(backend, Follows):
            assert self.raises_storage_error(partial(reader.follow, stored, 0)), "follow() raises nothing"

    @promise
    def test_follow_goes_on_where_it_ended(self, backend: Backend) -> None:
        """follow() returns each record once, in order, while a segment grows and when it is sealed."""
        if not _able(backend, Follows):
            does_not_apply("the backend has no follow(): what is new is found by reading again")
        self.needs_segments(backend)
        backend.open(self.segment(backend))
        reader: Any = self.reader(backend)
        backend.write(Batch(numbered(3)))
        backend.flush()
        (stored,) = self.segments(reader)
        found, place = _followed(reader, stored, 0)
        self.same(backend, numbered(3), found)
        nothing, end = reader.follow(stored, -1)
        assert not nothing, f"for the place -1 it returns {len(nothing)} records"
        for count, first in ((1, 3), (500, 4), (1, 504)):
            backend.write(Batch(numbered(count, first)))
            backend.flush()
            found, place = _followed(reader, stored, place)
            self.same(backend, numbered(count, first), found)
            assert not _followed(reader, stored, place)[0], "it returns records again"
        self.same(backend, numbered(502, 3), _followed(reader, stored, end)[0])
        backend.write(Batch(numbered(4, 505)))
        backend.close()
        self.settle(backend)
        stored = self.find(reader, stored.segment)
        found, place = _followed(reader, stored, place)
        self.same(backend, numbered(4, 505), found)
        assert not _followed(reader, stored, place)[0], "it returns records again once the segment is sealed"

    @promise
    def test_united_names_what_was_merged(self, backend: Backend) -> None:
        """united() returns the segments that a merged one holds, down to the first ones, and none for another."""
        if not _able(backend, Unites):
            does_not_apply("the backend has no united(): its segments are never merged")
        first = [self.store(backend, numbered(20, 20 * n), second=n) for n in range(4)]
        reader: Any = self.reader(backend)
        for stored in first:
            assert not self.united(reader, stored), f"{stored.segment.name} was not merged, and united() returns some"
        if not _able(backend, Compacts):
            does_not_apply("the backend has no compact(), so nothing can be merged")
        for more in (0, 2):
            until = len(first) + more
            first += [self.store(backend, numbered(20, 20 * n), second=n) for n in range(len(first), until)]
            done = list(reader.compact(min_age=0.0, now=time.time() + 60))
            assert not [one.error for one in done if one.error], f"compact() fails: {done}"
            self.settle(backend)
            listed = self.segments(reader)
            left = {stored.segment.stem for stored in first} & {stored.segment.stem for stored in listed}
            merged = [stored for stored in listed if stored.segment.stem not in left]
            assert merged, "compact() merges nothing of what is small, and of one hour"
            sources = [stem for stored in merged for stem in self.united(reader, stored)]
            gone = sorted({stored.segment.stem for stored in first} - left)
            assert sorted(sources) == gone, f"merged were {gone}, and united() returns {sorted(sources)}"

    def united(self, backend: Any, stored: StoredSegment) -> list[str]:
        """Return the stems of the segments that a segment holds."""
        return [segment.stem for segment in backend.united(stored)]

    def finds(self, backend: Any, stored: StoredSegment, query: Query, there: Sequence[Record] | None = None) -> None:
        """Fail unless a search finds what reading and a filter find; ``there`` is what reading finds, if known."""
        __tracebackhide__ = True
        there = self.read(backend, stored) if there is None else there
        wanted = [one for one in there if query.matches(one)]
        found = _drain(backend, stored, query)
        if found == wanted:
            return
        missing, extra = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        said = f"asked for {_asked(query)}, search() finds {len(found)} records, reading {len(wanted)}"
        assert not missing, f"{said}; {missing.total()} are missing, as {next(iter(missing))!r:.300}"
        assert not extra, f"{said}; {extra.total()} are wrong, as {next(iter(extra))!r:.300}"
        assert _by_call(found) == _by_call(wanted), f"asked for {_asked(query)}, a call's records are in another order"


def _able(backend: Backend, ability: type[Ability]) -> bool:
    """Return whether a backend has an ability, without a consequence for its type."""
    return can(backend, ability)


def _drain(backend: Any, stored: StoredSegment, query: Query) -> list[Record]:
    return list(backend.search(stored, query))


def _followed(backend: Any, stored: StoredSegment, place: int) -> tuple[list[Record], int]:
    """Follow a segment until nothing is left."""
    found: list[Record] = []
    for _ in range(10_000):
        records, place = backend.follow(stored, place)
        assert type(place) is int, f"the place that follow() returns is {place!r}"
        if not records:
            return found, place
        found += records
    raise AssertionError("follow() returns records for ever")


def _by_call(records: Sequence[Record]) -> dict[str | None, list[Record]]:
    calls: defaultdict[str | None, list[Record]] = defaultdict(list)
    for one in records:
        calls[one.call_id].append(one)
    calls.pop(None, None)
    return calls


def _content(stored: StoredSegment) -> bytes:
    """Return what a segment's file holds; nothing where there is no file."""
    try:
        with open(stored.location, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _asked(query: Query) -> str:
    default = Query()
    fields = {field.name: getattr(query, field.name) for field in attrs.fields(Query)}
    return ", ".join(f"{name} {value!r:.200}" for name, value in fields.items() if value != getattr(default, name))


def _called(call_id: str, number: int) -> Record:
    return record(b"BYE sip:x SIP/2.0\r\nCall-ID: %b\r\nCSeq: %d BYE\r\n\r\n" % (call_id.encode(), number))


def _message(call_id: bytes, number: int) -> bytes:
    """Return a message of a call; by its number, it has one spelling of the headers or another."""
    name = (b"Call-ID:", b"i:", b"CALL-ID : ", b"call-id:\t")[number % 4]
    first = (b"INVITE sip:bob@example.com SIP/2.0", b"SIP/2.0 200 OK", b"SIP/2.0 486 Busy Here", b"BYE sip:x SIP/2.0")
    users = (b"alice", b"Alice", b"alice.smith", b"+491234")
    return (
        b'%b\r\nFrom: <sip:%b@Example.com>;tag=%d\r\nt: "B" <sip:bob@host%d>\r\n%b%b\r\nUser-Agent: Phone/%d\r\n'
        b"X-CID: other%d@x\r\n"
        % (first[number % 4], users[number // 4 % 4], number, number % 3, name, call_id, number % 7, number % 5)
        + _END
    )


def _records() -> list[Record]:
    """Return records of some calls among many, with times that are nearly in order, but for a few."""
    chance = random.Random(7)  # noqa: S311 - the same each time
    ends: tuple[dict[str, Any], ...] = (
        {},
        {"src_ip": "10.1.2.3", "dst_ip": "10.9.9.9", "dst_port": 5061, "tag": "snd", "proto": "tls"},
        {"af": "ipv6", "src_ip": "2001:db8::1", "dst_ip": "::1", "node": "n1"},
    )
    bufs = [_message(call_id, number) for number in range(12) for call_id in _CALL_IDS]
    bufs += [_message(b"call%d@x" % (number % 700), number) for number in range(3000)]
    chance.shuffle(bufs)
    bufs += [with_body(b"\r\nCall-ID: plain@192.0.2.1\r\n\r\n"), *MESSAGES.values()]
    far_off = {100: 86_400_000_000, 200: -86_400_000_000, 2400: 7_200_000_000, 2700: -1}
    made = [
        record(buf, time_us=_START_US + number * 10_000 + far_off.get(number, 0), **ends[number % 3])
        for number, buf in enumerate(bufs)
    ]
    return [*made, *made[:300:7]]  # a retransmission is equal


def _queries(records: Sequence[Record]) -> list[Query]:
    """Return questions of each kind, some with nothing to find."""
    times = [_START_US + number * 10_000 for number in (0, 1, 1500, 1501, len(records) - 1)]
    few = dict.fromkeys(f"call{number}@x" for number in range(3))
    return [
        Query(),
        *(Query(call_ids=[call_id]) for call_id in _CALL_IDS.values()),
        *(Query(call_ids=[call_id]) for call_id in ("nowhere@x", "plain", "plain@192.0.2.1 ", "x" * 5000, "folded")),
        Query(call_ids=[*few, "nowhere@x"]),
        Query(call_ids=[f"call{number}@x" for number in range(0, 700, 3)]),
        *(Query(users=[user]) for user in ("alice", "ALICE", "bob", "alice*", "*smith", "alice@example.com", "nobody")),
        Query(from_users=["alice"], to_users=["bob@host1"]),
        Query(from_users=["bob"]),
        Query(to_users=["*"]),
        *(Query(since_us=time_us) for time_us in times),
        *(Query(until_us=time_us) for time_us in times),
        *(Query(since_us=one, until_us=two) for one in times for two in times if one < two),
        Query(since_us=times[2], until_us=times[3], call_ids=few),
        Query(until_us=_START_US - 2 * 86_400_000_000),
        *(Query(endpoints=[parse_endpoint(text)]) for text in ("10.0.0.0/8", "10.9.9.9:5061", "[2001:db8::1]:5999")),
        Query(endpoints=[parse_endpoint("192.0.2.200"), parse_endpoint("::/0")]),
        *(
            Query(greps=[parse_grep(text)])
            for text in ("Phone/3", "\r\nUser-Agent", "/Phone.[34]/", "/PHONE.5/i", "\0")
        ),
        Query(greps=[parse_grep("Phone/3"), parse_grep("/host1/")]),
        Query(methods=["invite", "BYE"], agents=["phone/2"]),
        Query(statuses=parse_status("4xx"), users=["alice"]),
        Query(tags=["snd"]),
        Query(protos=["TLS"]),
        Query(nodes=["n1"]),
        Query(correlations=["other1@x", "call5@x"]),
        Query(call_ids=["plain@192.0.2.1"], methods=["BYE"], since_us=times[1]),
    ]
