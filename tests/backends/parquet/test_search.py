"""What is searched is what is read and filtered, whatever the file looks like."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query, parse_endpoint, parse_grep
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import COLUMNS, FIRST_COLUMNS, ParquetOptions

PREFIX = "s-"
NAMES = ("alice", "bob", "+4930123", "al%", "a_ce", "ä", "")
IDS = ("a@x", "b@x", "a@x-b2b_1", "c-leg1@y", "c@y", "é-\\xff", "ABCDEF0123456789abcdef0123456789")
METHODS = ("INVITE", "invite", "OPTIONS", "REGISTER", "M" * 70)
STATUSES = (100, 180, 200, 404, 503)
T0 = 1_795_386_431_000_000


def message(draw: Any) -> bytes:
    """Draw a message, most of them SIP, some in forms that parsers may read differently."""
    user, other, target = (draw(st.sampled_from(NAMES)) for _ in range(3))
    call_id = draw(st.sampled_from(IDS))
    first = draw(
        st.one_of(
            st.sampled_from(METHODS).map(lambda method: f"{method} sip:{target}@h.example SIP/2.0"),
            st.sampled_from(STATUSES).map(lambda status: f"SIP/2.0 {status} Reason"),
            st.sampled_from((
                "INVITE  sip:bob@h SIP/2.0", "SIP/2.0  200 OK", "sip/2.0 200 ok", " INVITE sip:bob@h SIP/2.0", "no",
                "INVITE sip:bob@h sip/2.0", "INVITE <sip:alice@h> SIP/2.0", "INVITE tel:+4930123 SIP/2.0", "",
                "INVITE sip:bob@h SIP/2.0 ", "INVITE sip:bob:secret@h SIP/2.0", "SIP/2.0 200",
            )),
        )
    )  # fmt: skip
    headers = [
        draw(st.sampled_from(("From", "f", "FROM", "from "))) + ": " + party(draw, user),
        draw(st.sampled_from(("To", "t", "tO"))) + ": " + party(draw, other),
        draw(st.sampled_from(("Call-ID", "i", "call-id", "X-No"))) + ": " + call_id,
    ]
    headers += draw(
        st.lists(
            st.sampled_from((
                "User-Agent: Snom/10", "Server: Kamailio", "user-agent:\r\n snom", "X-CID: a@x", "X-Call-ID: b@x",
                "Session-ID: ABCDEF0123456789abcdef0123456789;remote=00000000000000000000000000000000",
                "Session-ID: 00000000000000000000000000000000 ; remote = abcdef0123456789ABCDEF0123456789",
                'P-Charging-Vector: icid-value="a@x";orig-ioi=h', "P-Charging-Vector: x;icid-value=b@x ;y",
                "Call-ID: second@x", "From: <sip:second@x>",
            )),
            max_size=3,
        )
    )  # fmt: skip
    headers = draw(st.permutations(headers))
    end = draw(st.sampled_from(("\r\n", "\n")))
    before = draw(st.sampled_from(("", "", "", "\r\n\r\n")))
    body = draw(st.sampled_from(("", "v=0", "From: <sip:body@x>", "Call-ID: body@x")))
    text = before + end.join([first, *headers, "", body])
    cut = draw(st.sampled_from((None, None, None, 20, 60)))
    return text.encode()[:cut]


def party(draw: Any, user: str) -> str:
    form = draw(
        st.sampled_from((
            "<sip:{}@h.example>;tag=1", '"Al <sip:x@y> ice" <sip:{}@H.example>', "sip:{}@h;tag=2", "A <sips:{}@h:5061>",
            "<tel:{}>", '"unclosed <sip:{}@h>', '"esc\\" q" <sip:{}@h>', "<sip:h.example>", "<SIP:{}@h>",
            "<sip:{}:pw@h>", "\r\n <sip:{}@h>", "<mailto:{}@h>", "<sip:{}@h", "",
        ))
    )  # fmt: skip
    return str(form.format(user))


@st.composite
def record(draw: Any) -> Record:
    ends = draw(st.sampled_from((("192.0.2.1", 5060, "192.0.2.2", 5062), ("198.51.100.9", 1, "192.0.2.1", 5060))))
    src_ip, src_port, dst_ip, dst_port = ends
    return Record.of(
        message(draw),
        time_us=T0 + draw(st.integers(0, 5)) * 1_000_000,
        tag=draw(st.sampled_from(("rcv", "snd", "own"))),
        proto=draw(st.sampled_from(("udp", "wss"))),
        node=draw(st.sampled_from(("", "n1"))),
        pid=7,
        src_ip=src_ip, src_port=src_port, dst_ip=dst_ip, dst_port=dst_port,
        correlation_id=draw(st.sampled_from(("", "", "a@x", "é-x", 'q"x'))),
    )  # fmt: skip


def some(values: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=2)


USERS = (*NAMES[:-1], "al*", "*", "alice@h.example", "*@H.EXAMPLE", "+49*@h", "second", "nobody")
ENDPOINTS = ("192.0.2.1", "192.0.2.0/24:5062", "2001:db8::/32", "0.0.0.0/0:1")
QUERIES = st.builds(
    Query,
    since_us=st.none() | st.integers(T0, T0 + 6_000_000),
    until_us=st.none() | st.integers(T0, T0 + 6_000_000),
    call_ids=some((*IDS, "none@x", "second@x")),
    users=some(USERS),
    from_users=some(USERS),
    to_users=some(USERS),
    endpoints=some([parse_endpoint(each) for each in ENDPOINTS]),
    methods=some(("INVITE", "options", METHODS[-1])),
    statuses=some(STATUSES),
    agents=some(("SNOM", "kam", "none")),
    nodes=some(("", "n1")),
    tags=some(("rcv", "own")),
    protos=some(("UDP", "wss")),
    greps=some([parse_grep(each) for each in ("snom", "/al(ice)?/i", "nowhere")]),
    correlations=some((*IDS, "abcdef0123456789abcdef0123456789", "é-x", 'q"x')),
)
FIELDS = [field.name for field in attrs.fields(Query)]


@st.composite
def query(draw: Any) -> Query:
    """Draw a question of one or two fields, so that most have answers."""
    whole = draw(QUERIES)
    kept = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2))
    return Query(**{name: getattr(whole, name) for name in kept})


def fill(folder: Path, records: Sequence[Record], number: int = 0, **options: Any) -> ParquetBackend:
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


def check(backend: ParquetBackend, asked: Query) -> None:
    for stored in backend.segments():
        wanted = list(filter(asked.matches, backend.read(stored)))
        found = list(backend.search(stored, asked))
        assert Counter(found) == Counter(wanted), asked
        assert by_call(found) == by_call(wanted), asked


def by_call(records: Iterable[Record]) -> dict[str, list[Record]]:
    calls = defaultdict(list)
    for each in records:
        if each.call_id is not None:
            calls[each.call_id].append(each)
    return calls


SETTINGS = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
RECORDS = st.lists(record(), min_size=1, max_size=40)
KINDS = {
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


@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(records=RECORDS, asked=st.lists(query(), min_size=3, max_size=6))
def test_of_a_sealed_segment(
    kind: str, records: list[Record], asked: list[Query], tmp_path_factory: pytest.TempPathFactory
) -> None:
    backend = sealed(fill(tmp_path_factory.mktemp("s"), records, **KINDS[kind]))
    for each in asked:
        check(backend, each)


@SETTINGS
@given(records=RECORDS, asked=st.lists(query(), min_size=3, max_size=6))
def test_of_an_open_segment(
    records: list[Record], asked: list[Query], tmp_path_factory: pytest.TempPathFactory
) -> None:
    backend = fill(tmp_path_factory.mktemp("s"), records)
    try:
        for each in asked:
            check(backend, each)
    finally:
        sealed(backend)
