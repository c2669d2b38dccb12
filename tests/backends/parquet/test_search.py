"""What is searched is what is read and filtered, whatever the file looks like.

Messages and questions are drawn at random, the same ones each time; ``SIPDUMP_SEARCH_ROUNDS`` sets how many rounds.
"""

import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pyarrow.parquet as pq
import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query, parse_endpoint, parse_grep
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import COLUMNS, FIRST_COLUMNS, ParquetOptions
from sipdump_parquet.pages import Bloom, xxh64

ROUNDS = int(os.environ.get("SIPDUMP_SEARCH_ROUNDS", "4"))
QUESTIONS = 25

PREFIX = "s-"
NAMES = ("alice", "bob", "+4930123", "al%", "a_ce", "ä", "")
IDS = ("a@x", "b@x", "a@x-b2b_1", "c-leg1@y", "c@y", "é-\\xff", "ABCDEF0123456789abcdef0123456789")
METHODS = ("INVITE", "invite", "OPTIONS", "REGISTER", "M" * 70)
STATUSES = (100, 180, 200, 404, 503)
ODD_LINES = (
    "INVITE  sip:bob@h SIP/2.0", "SIP/2.0  200 OK", "sip/2.0 200 ok", " INVITE sip:bob@h SIP/2.0", "nonsense", "",
    "INVITE sip:bob@h sip/2.0", "INVITE <sip:alice@h> SIP/2.0", "INVITE tel:+4930123 SIP/2.0", "SIP/2.0 200",
    "INVITE sip:bob@h SIP/2.0 ", "INVITE sip:bob:secret@h SIP/2.0",
)  # fmt: skip
PARTIES = (
    "<sip:{}@h.example>;tag=1", '"Al <sip:x@y> ice" <sip:{}@H.example>', "sip:{}@h;tag=2", "Alice <sips:{}@h:5061>",
    "<tel:{}>", '"unclosed <sip:{}@h>', '"esc\\" q" <sip:{}@h>', "<sip:h.example>", "<SIP:{}@h>", "<sip:{}:pw@h>",
    "\r\n <sip:{}@h>", "<mailto:{}@h>", "<sip:{}@h", "",
)  # fmt: skip
OTHERS = (
    "User-Agent: Snom/10", "Server: Kamailio", "user-agent:\r\n snom", "X-CID: a@x", "X-Call-ID: b@x",
    "Session-ID: ABCDEF0123456789abcdef0123456789;remote=00000000000000000000000000000000",
    "Session-ID: 00000000000000000000000000000000 ; remote = abcdef0123456789ABCDEF0123456789",
    'P-Charging-Vector: icid-value="a@x";orig-ioi=h', "P-Charging-Vector: x;icid-value=b@x ;y",
    "Call-ID: second@x", "From: <sip:second@x>",
)  # fmt: skip
T0 = 1_795_386_431_000_000

USERS = (*NAMES[:-1], "al*", "*", "alice@h.example", "*@H.EXAMPLE", "+49*@h", "second", "nobody")
ASKED: dict[str, Sequence[Any]] = {
    "call_ids": (*IDS, "none@x", "second@x"),
    "users": USERS,
    "from_users": USERS,
    "to_users": USERS,
    "endpoints": [parse_endpoint(each) for each in ("192.0.2.1", "192.0.2.0/24:5062", "2001:db8::/32", "0.0.0.0/0:1")],
    "methods": ("INVITE", "options", METHODS[-1]),
    "statuses": STATUSES,
    "agents": ("SNOM", "kam", "none"),
    "nodes": ("", "n1"),
    "tags": ("rcv", "own"),
    "protos": ("UDP", "wss"),
    "greps": [parse_grep(each) for each in ("snom", "/al(ice)?/i", "nowhere")],
    "correlations": (*IDS, "abcdef0123456789abcdef0123456789", "é-x", 'q"x'),
}
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "small row groups": {"row_group_records": 5},
    "not compressed": {"compression": "none", "row_group_records": 9},
    "lz4": {"compression": "lz4"},
    "gzip": {"compression": "gzip", "level": 1},
    "snappy": {"compression": "snappy"},
    "schema version 1": {"columns": ",".join(FIRST_COLUMNS)},
    "no columns of messages": {"columns": "seq,time,buf,src_ip"},
    "no Call-ID": {"columns": ",".join(name for name in COLUMNS if name != "call_id"), "row_group_records": 7},
    "no correlation": {"columns": ",".join(name for name in COLUMNS if name not in ("correlation", "method", "node"))},
}


def message(draw: Random) -> bytes:
    """Draw a message, most of them SIP, some in forms that parsers may read differently."""
    pick = draw.choice
    first = pick((
        f"{pick(METHODS)} sip:{pick(NAMES)}@h.example SIP/2.0",
        f"SIP/2.0 {pick(STATUSES)} Reason",
        pick(ODD_LINES),
    ))  # fmt: skip
    headers = [
        f"{pick(('From', 'f', 'FROM', 'from '))}: {pick(PARTIES).format(pick(NAMES))}",
        f"{pick(('To', 't', 'tO'))}: {pick(PARTIES).format(pick(NAMES))}",
        f"{pick(('Call-ID', 'i', 'call-id', 'X-No'))}: {pick(IDS)}",
        *draw.sample(OTHERS, draw.randrange(4)),
    ]
    draw.shuffle(headers)
    body = pick(("", "v=0", "From: <sip:body@x>", "Call-ID: body@x"))
    text = pick(("", "", "", "\r\n\r\n")) + pick(("\r\n", "\n")).join([first, *headers, "", body])
    return text.encode()[: pick((None, None, None, 20, 60))]


def record(draw: Random) -> Record:
    pick = draw.choice
    ends = pick((("192.0.2.1", 5060, "192.0.2.2", 5062), ("198.51.100.9", 1, "192.0.2.1", 5060)))
    src_ip, src_port, dst_ip, dst_port = ends
    return Record.of(
        message(draw),
        time_us=T0 + draw.randrange(6) * 1_000_000,
        tag=pick(("rcv", "snd", "own")),
        proto=pick(("udp", "wss")),
        node=pick(("", "n1")),
        pid=7,
        src_ip=src_ip, src_port=src_port, dst_ip=dst_ip, dst_port=dst_port,
        correlation_id=pick(("", "", "", "a@x", "é-x", 'q"x')),
    )  # fmt: skip


def question(draw: Random) -> Query:
    """Draw a question of one or two fields, so that most have answers."""
    fields: dict[str, Any] = {
        name: draw.sample(ASKED[name], min(len(ASKED[name]), draw.choice((1, 1, 2))))
        for name in draw.sample(list(ASKED), draw.choice((0, 1, 1, 1, 2)))
    }
    if draw.random() < 0.3:
        fields["since_us"] = T0 + draw.randrange(6) * 1_000_000
    if draw.random() < 0.3:
        fields["until_us"] = T0 + draw.randrange(6) * 1_000_000
    return Query(**fields)


def fill(folder: Path, records: Sequence[Record], number: int = 0, **options: Any) -> ParquetBackend:
    """Write a segment, and leave it open."""
    backend = ParquetBackend(ParquetOptions(**options), Site(str(folder), PREFIX))
    backend.start()
    backend.open(Segment(PREFIX, "2026-11-22--23-31-00", number, backend.suffix))
    for first in range(0, len(records), 4):
        backend.write(records[first : first + 4])
    return backend


def sealed(backend: ParquetBackend) -> ParquetBackend:
    backend.close()
    backend.stop()
    return backend


def by_call(records: Iterable[Record]) -> dict[str, list[Record]]:
    calls = defaultdict(list)
    for each in records:
        if each.call_id is not None:
            calls[each.call_id].append(each)
    return calls


def check(backend: ParquetBackend, *questions: Query) -> int:
    """Compare what is found with what is read and filtered; return how many records that were."""
    count = 0
    for stored in backend.segments():
        records = list(backend.read(stored))
        for asked in questions:
            wanted = list(filter(asked.matches, records))
            found = list(backend.search(stored, asked))
            what = {name: value for name, value in attrs.asdict(asked, recurse=False).items() if value}
            assert Counter(found) == Counter(wanted), what
            assert by_call(found) == by_call(wanted), what
            count += len(found)
    return count


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_sealed_segment(kind: str, seed: int, tmp_path: Path) -> None:
    draw = Random(f"{kind} {seed}")
    records = [record(draw) for _ in range(draw.randrange(1, 80))]
    backend = sealed(fill(tmp_path, records, **KINDS[kind]))
    assert check(backend, *(question(draw) for _ in range(QUESTIONS)))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_of_an_open_segment(seed: int, tmp_path: Path) -> None:
    draw = Random(f"open {seed}")
    backend = fill(tmp_path, [record(draw) for _ in range(draw.randrange(1, 80))])
    try:
        assert check(backend, *(question(draw) for _ in range(QUESTIONS)))
    finally:
        sealed(backend)


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("parts", [False, True])
def test_of_a_merged_segment(seed: int, parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if parts:  # each source keeps row groups of its own where sorting together would make the file larger
        none = property(lambda _: 0, lambda *_: None)
        monkeypatch.setattr("sipdump_parquet.compaction._Sources.size", none, raising=False)
    draw = Random(f"merged {seed}")
    for number in range(3):
        columns = draw.choice(("", ",".join(FIRST_COLUMNS)))
        records = [record(draw) for _ in range(draw.randrange(1, 40))]
        backend = sealed(fill(tmp_path, records, number, columns=columns))
    (done,) = backend.compact(min_age=0)
    assert done.error is None
    assert check(backend, *(question(draw) for _ in range(QUESTIONS)))


def test_a_call_of_more_than_memory_is_in_the_order_of_its_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipdump_parquet.ordering._HELD", 1000)
    draw = Random(1)
    records = [
        Record.of(
            b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: one@x\r\n\r\n%d" % number,
            time_us=T0 + draw.randrange(1000), src_ip="192.0.2.1", src_port=1, dst_ip="192.0.2.2", dst_port=number,
            correlation_id="é" * (number % 2),
        )
        for number in range(500)
    ]  # fmt: skip
    backend = sealed(fill(tmp_path, records, row_group_records=90))
    (stored,) = backend.segments()
    assert list(backend.search(stored, Query(call_ids=["one@x"]))) == records
    assert list(backend.search(stored, Query())) == records


def test_a_page_with_a_bit_flipped_is_an_error(tmp_path: Path) -> None:
    backend = sealed(fill(tmp_path, [record(Random(number)) for number in range(50)], compression="none"))
    (stored,) = backend.segments()
    path = Path(stored.location)
    data = bytearray(path.read_bytes())
    data[data.index(b"@h.example SIP/2.0")] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="checksum"):
        list(backend.search(stored, Query(greps=[parse_grep("nowhere")])))


def test_a_file_of_another_writer_is_searched_without_its_pages(tmp_path: Path) -> None:
    records = [record(Random(number)) for number in range(50)]
    backend = sealed(fill(tmp_path, records, row_group_records=20))
    (stored,) = backend.segments()
    table = pq.read_table(stored.location)
    pq.write_table(table, stored.location, row_group_size=20, data_page_version="2.0", use_dictionary=["buf"])
    assert check(backend, Query(users=["alice"]))
    pq.write_table(table, stored.location, row_group_size=20, write_statistics=False)
    assert check(backend, Query(since_us=T0 + 2_000_000, methods=["INVITE"]))


def test_without_buf_there_is_nothing_to_be_found(tmp_path: Path) -> None:
    backend = sealed(fill(tmp_path, [record(Random(1))], columns="seq,time,call_id"))
    (stored,) = backend.segments()
    with pytest.raises(StorageError, match="no column buf"):
        list(backend.search(stored, Query(call_ids=["a@x"])))


def test_a_bloom_filter_holds_what_was_written_and_little_else(tmp_path: Path) -> None:
    made = [f"call-{number}-{'x' * (number % 40)}@h" for number in range(1000)]
    records = [
        Record.of(
            b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: %s\r\n\r\n" % each.encode(), time_us=T0, src_ip="192.0.2.1",
            src_port=1, dst_ip="192.0.2.2", dst_port=1,
        )
        for each in made
    ]  # fmt: skip
    sealed(fill(tmp_path, records))
    with (tmp_path / "s-2026-11-22--23-31-00.parquet").open("rb") as file:
        chunk = pq.read_metadata(file).row_group(0).column(COLUMNS.index("call_id"))
        bloom = Bloom(file, chunk.bloom_filter_offset)
        assert all(bloom.may_hold(xxh64(each.encode())) for each in made)
        assert sum(bloom.may_hold(xxh64(b"no" + each.encode())) for each in made) < 60


@pytest.mark.parametrize(
    ("data", "digest"),
    [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999)],
)
def test_xxh64_of_its_published_vectors(data: bytes, digest: int) -> None:
    assert xxh64(data) == digest


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    draw = Random(3)
    records = []
    for number in range(3000):
        buf = f"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: {number // 3:06}@x\r\n\r\n".encode() + draw.randbytes(500)
        records.append(
            Record.of(buf, time_us=T0 + number, src_ip="192.0.2.1", src_port=1, dst_ip="192.0.2.2", dst_port=1)
        )
    backend = sealed(fill(tmp_path, records, row_group_records=500))
    (stored,) = backend.segments()

    class Counted(io.BytesIO):
        remote = False
        identity = "it"
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.count += len(found)
            return found

    file = Counted(Path(stored.location).read_bytes())
    assert len(list(backend.search_file(file, Query(call_ids=["000500@x"])))) == 3
    size = Path(stored.location).stat().st_size
    assert file.count < size / 4, (file.count, size)
    file.count = 0
    assert not list(backend.search_file(file, Query(call_ids=["none@x"])))
    assert file.count < size / 50, (file.count, size)


def test_a_leg_with_a_suffix_is_found_among_many_row_groups(tmp_path: Path) -> None:
    ids = [f"{number:03}@x" for number in range(100)] + ["050-b2b_1@x", "050@x-leg2", "0505@x"]
    records = [
        Record.of(
            f"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: {each}\r\n\r\n".encode(), time_us=T0, src_ip="192.0.2.1", src_port=1,
            dst_ip="192.0.2.2", dst_port=1,
        )
        for each in ids
    ]  # fmt: skip
    backend = sealed(fill(tmp_path, records, row_group_records=5))
    assert check(backend, Query(correlations=["050@x"])) == 3
