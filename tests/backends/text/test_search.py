"""Searching and following ``.data`` files: what comes out is what reading and a filter find, whatever is in them."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.capabilities import Follows, Searches, can
from sipdump_core.drivers.folder import DISORDER_XATTR, disorder
from sipdump_core.drivers.query import Query, parse_grep
from sipdump_core.drivers.scan import FEW, FileScan
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend
from sipdump_text.search import TextSearch
from tests.backends.searching import TIME_US, followed, limits, queries, same_as_reading, stored_at
from tests.support import OPTIONS, examples, record

NAME = "t-2026-11-22--23-31-00"


def text(folder: Path) -> TextBackend:
    return TextBackend(NoOptions(), Site(str(folder), "t-"))


def store(folder: Path, *batches: list[Record], sequence: int = 0) -> tuple[TextBackend, StoredSegment]:
    backend = text(folder)
    backend.open(Segment("t-", "2026-11-22--23-31-00", sequence, ".data"))
    for batch in batches:
        backend.write(batch)
    backend.close()
    (stored,) = [each for each in backend.segments() if each.segment.sequence == sequence]
    return backend, stored


def save(folder: Path, data: bytes) -> tuple[TextBackend, StoredSegment]:
    """Store a file that nobody knows anything of."""
    path = folder / f"{NAME}.data"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    backend = text(folder)
    return backend, stored_at(backend, path)


coder = text(Path("/nonexistent"))
pieces = st.sampled_from(
    [
        b"=" * 20 + b"\n", b"|" * 20 + b"\n", b"~" * 20 + b"\n", b"\ntime: 1.", b"\r\n\r\n", b"\n\n", b"x",
        b"l: 30\r\n", b"Content-Length: 4\r\n", b"Call-ID: two\r\n", b"y" * 300, coder.encode([record()]),
        coder.encode([record(b"A x SIP/2.0\r\nCall-ID: one\r\n\r\nx", tag="snd")]),
        coder.encode([record(b"A x SIP/2.0\r\ni: one\r\nContent-Length: 600\r\n\r\n")]),
        coder.encode([record(tag="snd")])[:-9],
    ]
)  # fmt: skip
lengths = st.sampled_from([b"", b"Content-Length: %d\r\n", b"content-length :%d\n", b"l:\r\n %d\r\n", b"L: %d \r\n"])
call_ids = st.sampled_from([b"", b"Call-ID: one\r\n", b"i:  two\r\n", b"CALL-ID: a\r\n\t b\r\n"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw a message whose body has separators and records in it, and whose Content-Length may be wrong."""
    body = b"".join(draw(st.lists(pieces, max_size=5)))
    length = draw(lengths)
    if length:
        length %= draw(st.sampled_from([0, 3, len(body), len(body), len(body) + 21, len(body) + 260, 5000]))
    return b"INVITE sip:x SIP/2.0\r\n" + draw(call_ids) + length + b"\r\n" + body


@st.composite
def records(draw: st.DrawFn) -> Record:
    tenths = draw(st.one_of(st.integers(0, 30), st.integers(0, 100_000)))
    return record(draw(messages()), tag=draw(st.sampled_from(["rcv", "snd"])), time_us=TIME_US + tenths * 100_000)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a file of records, some with a byte replaced or removed, and perhaps without its end."""
    data = b""
    for one in draw(st.lists(records(), max_size=12)):
        encoded = coder.encode([one])
        at = draw(st.integers(0, 10 * len(encoded)))  # most stay as they are
        replacement = draw(st.sampled_from([b"", b"_", b" ", b"\n", b"7"]))
        data += encoded[:at] + (replacement + encoded[at + 1 :] if at < len(encoded) else b"")
    return data[: len(data) - draw(st.sampled_from([0, 0, 1, 30, 200]))]


SMALL = {"sipdump_text__search__BODY_LIMIT": 1500, "sipdump_text__decode__BODY_LIMIT": 1500,
         "sipdump_text__search___AHEAD": 300}  # fmt: skip
several = settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@several
@given(
    data=damaged(),
    asked=st.lists(queries, min_size=1, max_size=4),
    chunk=st.sampled_from([100, 700, 1 << 16]),
    window=st.sampled_from([64, 500, 1 << 16]),
)
def test_any_file_is_searched_as_it_is_read(
    tmp_path: Path, data: bytes, asked: list[Query], chunk: int, window: int
) -> None:
    backend, stored = save(tmp_path, data)
    with limits(chunk=chunk, window=window, near=200, sipdump_text__search___CHUNK=chunk, **SMALL):
        for query in asked:
            same_as_reading(backend, stored, query)
        found, _ = followed(backend, stored)
        assert found == list(backend.read(stored))


@several
@given(st.lists(st.lists(records(), min_size=1, max_size=4), min_size=1, max_size=5), st.lists(queries, max_size=4))
def test_our_own_files_are_searched_by_time(tmp_path: Path, batches: list[list[Record]], asked: list[Query]) -> None:
    for each in tmp_path.iterdir():
        each.unlink()
    with limits(chunk=300, window=100, near=200, sipdump_text__search___CHUNK=300, **SMALL):
        backend, stored = store(tmp_path, *batches)
        for query in asked:
            same_as_reading(backend, stored, query)


@several
@given(damaged(), st.integers(0, 3000), st.integers(0, 3000))
def test_every_place_is_one_that_a_reader_comes_to(tmp_path: Path, data: bytes, low: int, at: int) -> None:
    save(tmp_path, data)
    with (
        limits(chunk=300, window=100, near=200, sipdump_text__search___CHUNK=300, **SMALL),
        FileScan(str(tmp_path / f"{NAME}.data")) as scan,
    ):
        looked = TextSearch(scan)
        all_ = list(looked.records(0, scan.size, 1 << 16))
        before = [behind for _, behind in all_ if behind <= at]
        place = looked.place(max((place for place in before if place <= low), default=0), at)
        assert place <= at
        assert list(looked.records(place, scan.size, 1 << 16)) == [one for one in all_ if one[1] > place]


def test_a_record_in_a_body_is_not_found_and_its_message_is(tmp_path: Path) -> None:
    inner = coder.encode([record(b"BYE sip:x SIP/2.0\r\nCall-ID: forged\r\n\r\n")])
    outer = b"MESSAGE sip:x SIP/2.0\r\nCall-ID: outer\r\nContent-Length: %d\r\n\r\n" % len(inner * 9) + inner * 9
    backend, stored = store(tmp_path, [record(OPTIONS), record(outer), record(OPTIONS)])
    assert list(backend.search(stored, Query(call_ids=["forged"]))) == []
    assert [r.buf for r in backend.search(stored, Query(call_ids=["outer"]))] == [outer]
    assert [r.buf for r in backend.search(stored, Query(greps=[parse_grep("Call-ID: forged")]))] == [outer]


def test_times_are_found_without_reading_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.drivers.search._NEAR", 1 << 13)
    monkeypatch.setattr("sipdump_text.search.BODY_LIMIT", 1 << 12)
    batch = [record(OPTIONS, time_us=TIME_US + n * 1000) for n in range(20_000)]
    batch[100], batch[200] = batch[200], batch[100]
    backend, stored = store(tmp_path, batch)
    late = Query(since_us=TIME_US + 15_000_000, until_us=TIME_US + 15_010_000)
    assert known(stored) == 100_000
    read: list[int] = []
    whole = FileScan.read

    def counted(self: FileScan, start: int, end: int) -> bytes:
        data = whole(self, start, end)
        read.append(len(data))
        return data

    monkeypatch.setattr(FileScan, "read", counted)
    assert [r.time_us for r in backend.search(stored, late)] == [TIME_US + 15_000_000 + n * 1000 for n in range(10)]
    assert sum(read) < stored.size / 2
    os.removexattr(stored.location, DISORDER_XATTR)  # as in a copy: it is measured, once
    for _ in range(2):
        read.clear()
        assert len(list(backend.search(stored, late))) == 10
    assert sum(read) < stored.size / 2


def known(stored: StoredSegment) -> int | None:
    fd = os.open(stored.location, os.O_RDONLY)
    try:
        return disorder(fd)
    finally:
        os.close(fd)


def test_a_clock_that_is_far_off_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.drivers.search._NEAR", 1 << 13)
    batch = [record(OPTIONS, time_us=TIME_US + n * 1000) for n in range(5000)]
    batch[10] = record(b"late", time_us=TIME_US + 86_400_000_000)
    batch[4990] = record(b"early", time_us=TIME_US - 86_400_000_000)
    backend, stored = store(tmp_path, batch[:4000], batch[4000:])
    assert [r.buf for r in backend.search(stored, Query(since_us=TIME_US + 6_000_000))] == [b"late"]
    assert [r.buf for r in backend.search(stored, Query(until_us=TIME_US))] == [b"early"]


def test_a_file_that_is_cut_while_it_is_searched_ends_there(tmp_path: Path) -> None:
    backend, stored = store(tmp_path, [record(b"%d %b" % (n, OPTIONS)) for n in range(5000)])
    found = backend.search(stored, Query(greps=[parse_grep("OPTIONS")]))
    first = next(found)
    os.truncate(stored.location, 100_000)
    rest = list(found)
    assert first.buf.startswith(b"0 ")
    assert 100 < len(rest) < 4999
    assert [r.buf for r in rest] == [b"%d %b" % (n, OPTIONS) for n in range(1, len(rest) + 1)]


def test_a_file_that_is_deleted_while_it_is_searched_is_read_to_its_end(tmp_path: Path) -> None:
    backend, stored = store(tmp_path, [record(b"%d %b" % (n, OPTIONS)) for n in range(5000)])
    found = backend.search(stored, Query(greps=[parse_grep("OPTIONS")]))
    next(found)
    backend.delete(stored)
    assert len(list(found)) == 4999
    with pytest.raises(StorageError):
        list(backend.search(stored, Query()))
    with pytest.raises(StorageError):
        backend.follow(stored, 0)


def test_many_literals_are_no_hindrance(tmp_path: Path) -> None:
    batch = [record(b"A sip:x SIP/2.0\r\nCall-ID: %d\r\n\r\n" % n) for n in range(100)]
    backend, stored = store(tmp_path, batch)
    for count in (1, FEW, FEW + 1, 90):
        found = backend.search(stored, Query(call_ids=map(str, range(count))))
        assert list(found) == batch[:count]


def test_an_open_file_is_followed_through_its_seal_and_its_torn_tail(tmp_path: Path) -> None:
    backend = text(tmp_path)
    assert can(backend, Searches)
    assert can(backend, Follows)
    backend.open(Segment("t-", "2026-11-22--23-31-00", 0, ".data"))
    (stored,) = backend.segments()
    assert backend.follow(stored, 0) == ([], 0)
    assert backend.follow(stored, -1) == ([], 0)
    backend.write([record(b"one"), record(b"two")])
    _, place = backend.follow(stored, -1)
    assert backend.follow(stored, place) == ([], place)
    assert followed(backend, stored)[0] == [record(b"one"), record(b"two")]
    backend.write([record(b"three")])
    found, behind = followed(backend, stored, place)
    assert found == [record(b"three")]
    torn = coder.encode([record(b"four")])
    with open(stored.location, "ab") as file:
        file.write(torn[:-5])
        file.flush()
        assert followed(backend, stored, behind) == ([], behind)
        assert backend.follow(stored, -1) == ([], behind)
        file.write(torn[-5:])
    backend.close()
    assert followed(backend, stored, behind)[0] == [record(b"four")]


def test_a_file_that_was_cut_is_followed_from_a_record(tmp_path: Path) -> None:
    """What a write that failed had brought is taken back, and other records come in its place."""
    backend = text(tmp_path)
    backend.open(Segment("t-", "2026-11-22--23-31-00", 0, ".data"))
    backend.write([record(b"one"), record(b"two" * 100)])
    (stored,) = backend.segments()
    _, end = backend.follow(stored, 0)
    first = len(coder.encode([record(b"one")]))
    os.truncate(stored.location, first)
    assert backend.follow(stored, end) == ([], first)
    with open(stored.location, "ab") as file:
        file.write(coder.encode([record(b"3" * 999), record(b"4")]))
    found, _ = followed(backend, stored, end)
    assert found == [record(b"3" * 999), record(b"4")]
