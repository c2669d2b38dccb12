"""The rows of the call list."""

import pytest

from sipdump_core.calls.call import Call
from sipdump_core.errors import ConfigError
from sipdump_core.viewing.listing import COLUMNS, DEFAULT, Row, column, columns_of, row_of, sort_of, sorted_rows
from tests.core.reading.traffic import at, call, register

LATER = at("23:00:00")


def row(*args: object, **more: object) -> Row:
    return row_of(Call.of(call(*args, **more)), LATER)  # type: ignore[arg-type]


def shown(one: Row) -> dict[str, str]:
    return {each.name: each.text(one) for each in COLUMNS}


@pytest.mark.usefixtures("utc")
def test_a_row_has_what_find_has() -> None:
    texts = shown(row("one@a", at("10:32:00"), seconds=125, headers="User-Agent: Snom/10\r\n"))
    assert texts | {} == texts
    assert (texts["began"], texts["date"]) == ("10:32:00.000", "2026-11-22")
    assert (texts["state"], texts["method"], texts["status"]) == ("ended", "INVITE", "200")
    assert (texts["from_user"], texts["to_user"], texts["messages"]) == ("alice", "bob", "6")
    assert (texts["duration"], texts["post_dial_delay"]) == ("2:05", "0.1 s")
    assert (texts["src"], texts["dst"]) == ("192.0.2.10:5060", "203.0.113.1:5060")
    assert (texts["agent"], texts["call_id"]) == ("Snom/10", "one@a")


def test_what_is_absent_is_empty() -> None:
    texts = shown(row("one@a", status=486))
    assert (texts["duration"], texts["agent"], texts["retransmissions"]) == ("", "", "")
    assert row("one@a", status=486).mark == "failure"


def test_nothing_of_a_message_is_obeyed() -> None:
    texts = shown(row("on\x1b[31me@a", caller="al\u202eice", headers="User-Agent: \x1b]0;x\x07\r\n"))
    assert all(text.isprintable() for text in texts.values())
    assert texts["agent"] == "\\x1b]0;x\\x07"


def test_rows_are_sorted_by_any_column_and_absent_values_come_last() -> None:
    rows = [row("b@a", seconds=30), row("a@a", status=486), row("c@a", seconds=10)]
    order = [each.call_id for each in sorted_rows(rows, column("duration"), downwards=False)]
    assert order == ["c@a", "b@a", "a@a"]
    order = [each.call_id for each in sorted_rows(rows, column("duration"), downwards=True)]
    assert order == ["b@a", "c@a", "a@a"]
    rows.append(row_of(Call.of(register("d@a")), LATER))
    for each in COLUMNS:
        for downwards in (True, False):
            assert len(sorted_rows(rows, each, downwards=downwards)) == 4


def test_columns_are_named() -> None:
    assert [each.name for each in columns_of("Began, call_id,began")] == ["began", "call_id"]
    assert sort_of("-duration") == (column("duration"), True)
    assert set(DEFAULT) <= set(COLUMNS)
    with pytest.raises(ConfigError, match="'size' is not a column; choose from began, date"):
        columns_of("size")
