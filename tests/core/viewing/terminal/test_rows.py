"""The list's rows: in order, bounded, narrowed."""

from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.calls.call import Call
from sipdump_core.viewing.listing import COLUMNS, Row, column, row_of, sorted_rows
from sipdump_core.viewing.terminal.rows import Rows
from tests.core.reading.traffic import at, call, register

ALL = [
    row_of(Call.of(call(f"{number}@a", at(f"10:{number % 7:02}:00"), status=200 if number % 3 else 503,
                        seconds=number % 5, caller="alice" if number % 2 else "bob")), at("11:00:00"))
    for number in range(30)
]  # fmt: skip
REG = row_of(Call.of(register("reg@a", at("10:00:00"))), at("11:00:00"))


def rows(limit: int = 0, by: str = "began", downwards: bool = True) -> Rows:
    return Rows(limit, column(by), downwards=downwards)


def ids(found: Rows) -> list[str]:
    return [found.at(place).call_id for place in range(len(found))]


@given(st.lists(st.integers(0, 29)), st.sampled_from(COLUMNS), st.booleans(), st.sets(st.integers(0, 29)))
def test_they_are_in_order_however_they_come(order: list[int], by: object, downwards: bool, gone: set[int]) -> None:
    found = Rows(0, column("began"), downwards=False)
    for number in order:
        found.put([ALL[number]])
    found.sort(by, downwards=downwards)  # type: ignore[arg-type]
    found.put(ALL[number] for number in order[::2])
    found.remove(ALL[number].call_id for number in gone)
    left: list[Row] = [ALL[number] for number in set(order) - gone]
    assert ids(found) == [row.call_id for row in sorted_rows(left, by, downwards=downwards)]  # type: ignore[arg-type]
    assert found.shown() == ids(found)
    assert all(found.place(found.at(place).call_id) == place for place in range(len(found)))


def test_the_oldest_go_first_whatever_they_are_sorted_by() -> None:
    found = rows(10, "call_id", downwards=False)
    found.put(ALL)
    assert len(found) == found.total == 10
    assert found.dropped == 20
    kept = sorted(ALL, key=lambda row: (row.summary.began, row.call_id))[-10:]
    assert {row.call_id for row in kept} == set(ids(found))


def test_a_text_narrows_them_and_what_comes_later() -> None:
    found = rows()
    found.put([*ALL[:10], REG])
    found.narrow("FAILED")
    assert ids(found) == ["6@a", "3@a", "9@a", "0@a"]
    assert found.states() == {"failed": 4}
    found.put(ALL[10:13])
    assert "12@a" in ids(found)
    assert found.place("10@a") is None
    assert found.get("10@a") is ALL[10]
    found.narrow("", calls_only=True)
    assert "reg@a" not in ids(found)
    found.narrow("")
    assert len(found) == found.total == 14
    found.clear()
    assert (len(found), found.total, found.place(None)) == (0, 0, None)
