"""How often a search reads, and that it finds the same however it reads."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from sipdump_core.calls.legs import LegRules
from sipdump_core.drivers.query import Query
from sipdump_core.reading.finder import Finder
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from tests.core.reading.stores import fill, workshop
from tests.support import record

MINUTE_US = 60_000_000
START_US = 1_795_386_431_000_000


def message(call_id: str, minute: float, first: str = "INVITE sip:b@x SIP/2.0", more: str = "") -> Record:
    buf = (
        f"{first}\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{call_id}\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>"
        f"{';tag=2' if first.startswith('SIP') else ''}\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n{more}\r\n"
    )
    return record(buf.encode(), time_us=START_US + int(minute * MINUTE_US))


def call(call_id: str, minute: float, more: str = "") -> list[Record]:
    ack = message(call_id, minute + 0.1, "ACK sip:b@x SIP/2.0")
    return [
        message(call_id, minute, more=more),
        message(call_id, minute + 0.1, "SIP/2.0 486 Busy Here"),
        record(ack.buf.replace(b"1 INVITE", b"1 ACK"), time_us=ack.time_us),
    ]


class Asked:
    """Records to be searched, which counts the questions."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.queries: list[Query] = []
        self.nows = 0

    def read(self, query: Query) -> Iterable[Record]:
        self.queries.append(query)
        return filter(query.matches, self.records)

    def now_us(self) -> int:
        self.nows += 1
        return START_US + 60 * MINUTE_US

    def find(self, query: Query, rules: LegRules | None = None, *, legs: bool = True) -> dict[str, list[str]]:
        rules = rules or LegRules()
        finder = Finder(self.read, query, rules, Searched(), self.now_us, around=600.0, legs=legs)
        return {one.summary.call_id: [leg.call_id for leg in one.legs] for one in finder.found()}


def test_a_call_id_is_read_for_once() -> None:
    asked = Asked([*call("one", 0), *call("two", 0)])
    assert asked.find(Query(call_ids=["one"])) == {"one": []}
    assert asked.queries == [Query(correlations=["one"])]
    assert asked.nows == 0


def test_who_names_the_call_is_read_with_it_and_then_followed() -> None:
    records = [*call("one", 0), *call("two", 1, "X-CID: one\r\n"), *call("three", 2, "X-CID: two\r\n")]
    asked = Asked([*records, *call("four", 3)])
    assert asked.find(Query(call_ids=["one"])) == {"one": ["two", "three"]}


def test_who_names_the_call_hours_later_is_no_leg() -> None:
    late = call("two", 100, "X-CID: one\r\n")
    asked = Asked([*call("one", 0), *late])
    assert asked.find(Query(call_ids=["one"])) == {"one": []}


def test_what_the_call_names_is_read_for_then() -> None:
    asked = Asked([*call("one", 0, "X-CID: two\r\n"), *call("two", 1), *call("three", 1, "X-CID: two\r\n")])
    assert asked.find(Query(call_ids=["one"])) == {"one": ["three", "two"]}


@pytest.mark.parametrize(
    ("query", "rules"),
    [
        (Query(call_ids=["one"], since_us=START_US), LegRules()),
        (Query(call_ids=["one"], until_us=START_US + MINUTE_US), LegRules()),
        (Query(call_ids=["one"]), LegRules(headers=["X-Mine"])),
        (Query(call_ids=["one"]), LegRules(heuristic=True)),
        (Query(users=["a"], call_ids=["one"]), LegRules()),
    ],
)
def test_the_answer_is_the_same_where_it_is_read_for_twice(query: Query, rules: LegRules) -> None:
    asked = Asked([*call("one", 0), *call("two", 9, "X-CID: one\r\n")])
    assert asked.find(query, rules) == {"one": ["two"]}


def test_without_legs_nobody_else_is_read_for() -> None:
    asked = Asked([*call("one", 0), *call("two", 1, "X-CID: one\r\n")])
    assert asked.find(Query(call_ids=["one"]), legs=False) == {"one": []}
    assert asked.queries == [Query(call_ids=["one"])]


def test_now_is_asked_once_and_only_where_a_call_depends_on_it() -> None:
    asked = Asked([message("open", 0), message("other", 1), *call("one", 0)])
    assert asked.find(Query(), legs=False) == {"one": [], "open": [], "other": []}
    assert asked.nows == 1
    assert asked.find(Query(call_ids=["one"])) == {"one": []}
    assert asked.nows == 1


def test_the_newest_record_of_a_file_that_was_copied_is_found_by_halving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last write says nothing of its records' times."""
    made = workshop(tmp_path, 1)
    backend = made.backend("text", made.site())
    fill(backend, [message(f"{n}", n) for n in range(600)], START_US / 1e6)
    decoded = 0
    matches = Query.matches

    def counted(self: Query, record: Record) -> bool:
        nonlocal decoded
        decoded += 1
        return matches(self, record)

    monkeypatch.setattr(Query, "matches", counted)
    monkeypatch.setattr("sipdump_core.drivers.search._NEAR", 1 << 13)
    shelves, _ = open_shelves(folders=[str(tmp_path)])
    assert Store(shelves).now_us() == START_US + 599 * MINUTE_US
    assert decoded < 600
