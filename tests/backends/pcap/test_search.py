"""Searching and following ``.pcap`` files: what comes out is what reading and a filter find, whatever is in them."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.capabilities import Follows, Searches, can
from sipdump_core.drivers.folder import DISORDER_XATTR
from sipdump_core.drivers.query import Query, parse_endpoint, parse_grep
from sipdump_core.drivers.scan import FileScan
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_pcap.search import PcapSearch
from tests.backends.searching import TIME_US, followed, limits, queries, same_as_reading, stored_at
from tests.support import OPTIONS, examples, record

NAME = "t-2026-11-22--23-31-00"
LINE = b"P-KSR-SIPDump: tls pid=1 pno=1\r\n"
OLDER = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
NANOSECONDS = struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)


def pcap(folder: Path, *, headed: bool = False) -> PcapBackend:
    return PcapBackend(NoOptions(), Site(str(folder), "t-", transforms=[HeaderTransform(NoOptions())] * headed))


def store(
    folder: Path, *batches: list[Record], headed: bool = False, marked: bool = True
) -> tuple[PcapBackend, StoredSegment]:
    """Store a file; an unmarked one is as a copy is: nothing says that it is ours."""
    for each in folder.iterdir():
        each.unlink()
    backend = pcap(folder, headed=headed)
    backend.open(Segment("t-", "2026-11-22--23-31-00", 0, ".pcap"))
    for batch in batches:
        backend.write(batch)
    backend.close()
    (stored,) = backend.segments()
    if not marked:
        os.removexattr(stored.location, DISORDER_XATTR)
    return backend, stored


def save(folder: Path, data: bytes) -> tuple[PcapBackend, StoredSegment]:
    path = folder / f"{NAME}.pcap"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    backend = pcap(folder)
    return backend, stored_at(backend, path)


coder = pcap(Path("/nonexistent"))
V6 = {"af": "ipv6", "src_ip": "::1", "dst_ip": "::2"}
packets = [
    coder.encode([record(b"A x SIP/2.0\r\nCall-ID: one\r\n\r\n" + b"x" * 40)]),
    coder.encode([record(b"A x SIP/2.0\r\ni: two\r\n\r\n", **V6)]),
    coder.encode([record(b"A x SIP/2.0\r\n" + LINE + b"i: two\r\n\r\n")]),
    coder.encode([record(b"B" * 900)]),
]
pieces = st.sampled_from(
    [*packets, *(one[: len(one) // 2] for one in packets), packets[3][:58], bytes(16), bytes(30), b"\0", b"x", LINE,
     b"\r\n", b"Call-ID: two\r\n", b"Via: x\r\n", b"y" * 300, struct.pack("=IIII", 1, 1, 50, 50)]
)  # fmt: skip
call_ids = st.sampled_from([b"", b"Call-ID: one\r\n", b"i:  two\r\n", b"CALL-ID: a\r\n\t b\r\n"])


@st.composite
def records(draw: st.DrawFn) -> Record:
    head = draw(st.sampled_from([b"INVITE sip:x SIP/2.0\r\n", b"INVITE sip:x SIP/2.0\r\n" + LINE, b""]))
    buf = head + draw(call_ids) + b"\r\n" + b"".join(draw(st.lists(pieces, max_size=5)))
    tenths = draw(st.one_of(st.integers(0, 30), st.integers(0, 100_000)))
    return record(buf, time_us=TIME_US + tenths * 100_000, **draw(st.sampled_from([{}, V6])))


batches = st.lists(st.lists(records(), min_size=1, max_size=4), min_size=1, max_size=5)
several = settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
LONGEST = {"sipdump_pcap__search___LONGEST": 2600}


@several
@given(
    batches,
    st.lists(queries, min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([64, 500, 1 << 16]),
)
def test_our_own_files_are_searched_as_they_are_read(
    tmp_path: Path, stored_batches: list[list[Record]], asked: list[Query], headed: bool, marked: bool, window: int
) -> None:
    short = [[one for one in batch if len(one.buf) < 2500] or [record()] for batch in stored_batches]
    with limits(chunk=300, window=window, near=200, sipdump_pcap__search___CHUNK=300, **LONGEST):
        backend, stored = store(tmp_path, *short, headed=headed, marked=marked)
        for query in asked:
            same_as_reading(backend, stored, query)
        found, _ = followed(backend, stored)
        assert found == list(backend.read(stored))


@several
@given(
    header=st.sampled_from([coder.preamble(), OLDER, NANOSECONDS, OLDER[:9], b""]),
    parts=st.lists(st.one_of(pieces, st.sampled_from(packets)), max_size=12),
    cut=st.sampled_from([0, 0, 1, 30]),
    asked=st.lists(queries, min_size=1, max_size=4),
)
def test_any_file_is_searched_as_it_is_read(
    tmp_path: Path, header: bytes, parts: list[bytes], cut: int, asked: list[Query]
) -> None:
    data = header + b"".join(parts)
    backend, stored = save(tmp_path, data[: len(data) - cut])
    with limits(chunk=300, window=300, near=200, sipdump_pcap__search___CHUNK=300, **LONGEST):
        for query in asked:
            same_as_reading(backend, stored, query)


@several
@given(batches, st.integers(0, 9000), st.integers(0, 9000), st.booleans(), st.sampled_from([0, 0, 1, 17, 50]))
def test_every_place_is_one_that_a_reader_comes_to(
    tmp_path: Path, stored_batches: list[list[Record]], low: int, at: int, marked: bool, cut: int
) -> None:
    short = [[one for one in batch if len(one.buf) < 2500] or [record()] for batch in stored_batches]
    _, stored = store(tmp_path, *short, marked=marked)
    os.truncate(stored.location, stored.size - cut)
    with (
        limits(chunk=300, window=300, near=200, sipdump_pcap__search___CHUNK=300, **LONGEST),
        FileScan(stored.location) as scan,
    ):
        looked = PcapSearch(scan)
        places = [looked.first, *(behind for _, behind in looked.records(looked.first, scan.size, 1 << 16))]
        at = max(at % (scan.size + 100), looked.first)
        known = max(place for place in places if place <= max(low % at, looked.first))
        assert looked.place(known, at) == max(place for place in places if place <= at)


def test_a_packet_in_a_body_is_not_found_and_its_message_is(tmp_path: Path) -> None:
    inner = coder.encode([record(b"BYE sip:x SIP/2.0\r\nCall-ID: forged\r\n\r\n")])
    outer = b"MESSAGE sip:x SIP/2.0\r\nCall-ID: outer\r\n\r\n" + inner * 9
    backend, stored = store(tmp_path, [record(OPTIONS)] * 1000 + [record(outer)] + [record(OPTIONS)] * 1000)
    assert list(backend.search(stored, Query(call_ids=["forged"]))) == []
    assert [r.buf for r in backend.search(stored, Query(call_ids=["outer"]))] == [outer]
    assert [r.buf for r in backend.search(stored, Query(greps=[parse_grep("Call-ID: forged")]))] == [outer]


def test_little_is_read_of_a_file_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [record(OPTIONS, time_us=TIME_US + n * 1000, src_port=n % 9) for n in range(20_000)]
    batch[15_000] = record(b"BYE sip:x SIP/2.0\r\nCall-ID: wanted\r\n\r\n", time_us=TIME_US + 15_000_000)
    backend, stored = store(tmp_path, batch)
    read: list[int] = []
    whole = FileScan.read

    def counted(self: FileScan, start: int, end: int) -> bytes:
        data = whole(self, start, end)
        read.append(len(data))
        return data

    monkeypatch.setattr("sipdump_core.drivers.search._NEAR", 1 << 18)
    monkeypatch.setattr(FileScan, "read", counted)
    assert [r.buf for r in backend.search(stored, Query(call_ids=["wanted"]))] == [batch[15_000].buf]
    assert sum(read) < 300_000
    read.clear()
    late = Query(since_us=TIME_US + 15_000_000, until_us=TIME_US + 15_010_000, endpoints=[parse_endpoint("0.0.0.0/0")])
    assert len(list(backend.search(stored, late))) == 10
    assert sum(read) < stored.size / 2


def test_a_file_that_is_cut_while_it_is_searched_ends_there(tmp_path: Path) -> None:
    backend, stored = store(tmp_path, [record(b"%d %b" % (n, OPTIONS)) for n in range(5000)])
    found = backend.search(stored, Query(greps=[parse_grep("OPTIONS")]))
    next(found)
    os.truncate(stored.location, 100_000)
    rest = [r.buf for r in found]
    assert rest == [b"%d %b" % (n, OPTIONS) for n in range(1, len(rest) + 1)]
    assert 100 < len(rest) < 4999


def test_an_open_file_is_followed_through_its_seal_and_its_torn_tail(tmp_path: Path) -> None:
    backend = pcap(tmp_path)
    assert can(backend, Searches)
    assert can(backend, Follows)
    backend.open(Segment("t-", "2026-11-22--23-31-00", 0, ".pcap"))
    (stored,) = backend.segments()
    first = backend.follow(stored, -1)
    assert first == ([], 24)
    backend.write([record(b"one"), record(b"two")])
    _, place = backend.follow(stored, -1)
    assert backend.follow(stored, place) == ([], place)
    assert [r.buf for r in followed(backend, stored)[0]] == [b"one", b"two"]
    assert [r.buf for r in followed(backend, stored, 24)[0]] == [b"one", b"two"]
    torn = coder.encode([record(b"three")])
    with open(stored.location, "ab") as file:
        file.write(torn[:-2])
        file.flush()
        assert backend.follow(stored, place) == ([], place)
        assert backend.follow(stored, -1) == ([], place)
        file.write(torn[-2:])
    backend.close()
    assert [r.buf for r in followed(backend, stored, place)[0]] == [b"three"]
    os.truncate(stored.location, place)
    assert backend.follow(stored, place + 40) == ([], place)
