"""A search as a line, as a URL, and as the command line of find has it."""

import argparse
import contextlib
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import ConfigError
from sipdump_core.reading.arguments import add_filters, asked_of
from sipdump_core.viewing.words import NAMES, Search

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_line_asks_the_same_with_dashes_and_without() -> None:
    plain = Search.parse("user=alice state=failed since=2026-11-22T10:00Z a84b@192.0.2.10")
    assert plain == Search.parse("--user alice --state=failed --since 2026-11-22T10:00Z a84b@192.0.2.10")
    query = plain.query(NOW)
    assert query.users == {"alice"}
    assert query.states == {"failed"}
    assert query.call_ids == {"a84b@192.0.2.10"}
    assert query.since_us == round(datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    "filters",
    [
        ["--user", "alice", "--from", "+49*", "--to", "bob@example.com"],
        ["--ip", "192.0.2.0/24:5060", "--ip", "[2001:db8::1]:5061", "--ip", "2001:db8::/32", "--ip", "10.0.0.1"],
        ["--status", "4xx,503", "--status", "400-404", "--method", "INVITE", "--proto", "TLS", "--tag", "rcv"],
        ["--grep", "/user=\\d+/i", "--grep", "two words", "--grep", '/it\'s "so"/', "--ua", "Snom", "--node", "a"],
        ["--since", "yesterday 10:30", "--until", "now", "--around", "1h", "--state", "answered", "--call-id", "x=y"],
        ["--last", "1d12h"],
    ],
)
def test_a_command_line_is_a_search_and_a_search_is_a_url(filters: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_filters(parser)
    args = parser.parse_args(filters)
    search = Search.from_args(args)
    assert search.query(NOW) == asked_of(args, NOW)
    assert search.around == args.around
    assert Search.parse(search.line) == search
    assert Search.from_url(search.url) == search
    assert search.url.isascii()


def test_bytes_that_are_no_utf_8_survive() -> None:
    search = Search([("user", "caf\udce9"), ("call-id", "a/b?c&d=%41 ..")])
    assert Search.from_url(search.url) == search
    assert "%E9" in search.url


def test_an_expression_keeps_its_backslashes() -> None:
    assert Search.parse(r"grep=/user=\d+/").words == (("grep", r"/user=\d+/"),)


def test_an_empty_field_of_a_form_asks_nothing() -> None:
    assert Search.from_url("user=&state=failed&since=").words == (("state", "failed"),)


def test_what_only_says_how_the_list_looks() -> None:
    search = Search.parse("user=alice sort=-duration columns=began,call_id limit=5")
    assert search.sort[0].name == "duration"
    assert search.sort[1]
    assert [column.name for column in search.columns] == ["began", "call_id"]
    assert search.limit == 5
    assert search.filters.words == (("user", "alice"),)
    assert Search().sort[0].name == "began"


def test_words_can_be_replaced() -> None:
    search = Search.parse("user=alice since=-1h state=failed state=refused")
    assert search.replaced(state="answered", since=None).line == "user=alice state=answered"
    assert search.replaced(leg_guess="").rules.heuristic
    assert search.values("state") == ["failed", "refused"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("state=broken", "state: 'broken' is not a state; choose from ended"),
        ("--ip 1.2.3", "ip: '1.2.3' is not an address"),
        ("usr=alice", "'usr' is not a filter: is it user?; if this is a Call-ID: call-id=usr=alice"),
        ("--folder /etc", "'folder' is not a filter"),
        ("--user", "user: a value is missing behind it"),
        ("user='alice", "a quote is not closed in user='alice"),
        ("sort=colour", "sort: 'colour' is not a column; choose from began"),
        ("columns=,", "columns: name at least one column"),
        ("limit=-1", "limit: '-1' is not a whole number"),
        ("last=soon", "last: "),
    ],
)
def test_an_error_names_the_word(line: str, error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        Search.parse(line)


def test_a_wrong_time_is_told_when_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--since"):
        Search.parse("since=noon").query(NOW)


def test_nothing_of_the_store_can_be_named() -> None:
    files = {"f", "A", "folder", "fprefix", "file", "store", "o", "format", "users-key", "redact"}
    assert NAMES.keys().isdisjoint(files)
    for name in files:
        with pytest.raises(ConfigError, match="is not a filter"):
            Search.from_url(f"{name}=/etc/passwd")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(st.sampled_from(["call-id", "ua", "node", "tag"]), TEXTS)))
def test_any_value_survives_a_line_and_a_url(words: list[tuple[str, str]]) -> None:
    search = Search(words)
    assert Search.parse(search.line) == search
    assert Search.from_url(search.url) == search


@given(st.text())
def test_any_line_is_a_search_or_an_error(line: str) -> None:
    with contextlib.suppress(ConfigError):
        Search.parse(line)
